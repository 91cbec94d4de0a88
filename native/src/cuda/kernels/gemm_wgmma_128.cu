// Products by wgmma in tiles of 128 x 128.
#include "gemm_wgmma_tile.h"

namespace trefoil::cuda {

WgmmaKernel gemm_wgmma_128(bool a_across, bool b_across) { return gemm_wgmma_of<128>(a_across, b_across); }

}  // namespace trefoil::cuda
