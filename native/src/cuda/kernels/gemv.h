// Products with at most eight rows of C: a decoding step. Time is that of reading b once.
#pragma once
#include "multiply.h"

namespace trefoil::cuda {

constexpr int kFewRows = 8;
inline bool suits_gemv(const Product& p) {
  return p.m <= kFewRows && p.k <= INT32_MAX / kFewRows - 8 * 1024 && p.schedule == Schedule::batch && p.count <= 65535;
}
void gemv(const Context& context, Workspace& workspace, const Matrix& a, const Matrix& b, Product p);

}  // namespace trefoil::cuda
