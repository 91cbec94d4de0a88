// Products of matrices as ops ask for them: operands of either dtype, either way round, through the kernel that the precision of
// the device asks for. In bf16 precision operands become rows of bf16 in the workspace first, unless they are that already.
#pragma once
#include "gemm_problem.h"
#include "workspace.h"

namespace trefoil::cuda {

// A stored matrix [rows, columns], `count` of them one after another (1: all products share it).
struct Matrix {
  const void* data = nullptr;
  int32_t dtype = TREFOIL_F32;
  int64_t rows = 0, columns = 0, count = 1;
  bool by_depth = false;           // columns are k; else rows are k
  const int32_t* index = nullptr;  // row r is stored row index[r], of stored_rows; others read as zero
  int64_t stored_rows = 0;
  bool constant = false;  // nothing in the program writes it
};

// Takes what it needs of the workspace and gives it back. p.m, n, k, count, schedule and what C is are set by the caller.
void multiply(const Context& context, Workspace& workspace, const Matrix& a, const Matrix& b, Product p);

// A matrix as rows of T that start at multiples of 16 bytes; zeros fill them up. Copies into the workspace where need be.
template <class T>
Rows<T> as_rows(const Context& context, Workspace& workspace, const Matrix& matrix, bool resolve_index);

// k in parts where C has too few tiles to fill the device. Depends on the shapes alone.
int choose_splits(const Product& p, int side, int depth);
// The same for parts that are added up within a cluster; 1: they are not.
int choose_cluster(const Context& context, const Product& p);
// Adds up the parts and finishes C.
void add_splits(const Context& context, const Product& p);
inline int64_t partial_elements(const Product& p) { return p.splits > 1 ? int64_t{p.splits} * p.count * p.m * p.n : 0; }
// Enough tiles of 128 x 128 to fill the device?
bool fills_large_tiles(const Product& p);

// The four ways round, one file each kernel: gemm_rows_f32.cu, gemm_rows_bf16.cu.
void gemm_rows(const Context& context, const Rows<float>& a, bool a_by_depth, const Rows<float>& b, bool b_by_depth, const Product& p, bool large);
void gemm_rows(const Context& context, const Rows<bf16>& a, bool a_by_depth, const Rows<bf16>& b, bool b_by_depth, const Product& p, bool large);
void gemm_rows_in_clusters(const Context& context, const Rows<bf16>& a, bool a_by_depth, const Rows<bf16>& b, bool b_by_depth, const Product& p);

}  // namespace trefoil::cuda
