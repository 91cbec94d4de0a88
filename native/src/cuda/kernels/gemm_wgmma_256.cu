// Products by wgmma in tiles of 128 x 256.
#include "gemm_wgmma_tile.h"

namespace trefoil::cuda {

WgmmaKernel gemm_wgmma_256(bool a_across, bool b_across) { return gemm_wgmma_of<256>(a_across, b_across); }

}  // namespace trefoil::cuda
