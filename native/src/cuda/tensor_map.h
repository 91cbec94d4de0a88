// What the copy engine (TMA) is told of a tensor: the driver's type and the function that fills it in.
#pragma once
#include "language.h"
#if defined(TREFOIL_CUDA_EMULATED)
#include "emulation/tensor_map.h"
#else
#include <cuda.h>
#endif

namespace trefoil::cuda {

using EncodeTensorMap = decltype(&cuTensorMapEncodeTiled);

// The driver's function, by its version; null where the driver has none. Its library is not linked: the runtime opens it.
EncodeTensorMap find_encode_tensor_map();

}  // namespace trefoil::cuda
