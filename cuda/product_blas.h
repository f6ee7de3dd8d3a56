// A product of row-major tensors as a BLAS, which counts by columns, wants to be asked for it.
#pragma once

#include <algorithm>

#include "tensors.h"

namespace segdcn {

// One factor: as it lies in memory (columns apart by `leading`), or transposed.
struct BlasMatrix {
  void* data;
  bool transposed;
  int64_t leading, stride;  // elements to the next column, to the next matrix of the batch
};

// out^T = second^T x first^T: what BLAS calls A is our second factor.
struct BlasCall {
  int64_t m, n, k, batch;
  BlasMatrix a, b, c;
};

inline BlasMatrix blas_matrix(const Tensor& t) {
  const int64_t dim = t.dim(), rows = t.size(dim - 2), columns = t.size(dim - 1);
  const int64_t row_step = t.stride(dim - 2), column_step = t.stride(dim - 1);
  const int64_t batch_step = dim == 3 ? t.stride(0) : 0;
  if (columns == 1 || column_step == 1)
    return {t.data_ptr(), false, rows == 1 ? std::max<int64_t>(columns, 1) : row_step, batch_step};
  STD_TORCH_CHECK(rows == 1 || row_step == 1,
                  "segdcn: a matrix lies in memory neither by rows nor by columns");
  return {t.data_ptr(), true, column_step, batch_step};
}

inline BlasCall blas_call(const Tensor& a, const Tensor& b, const Tensor& out) {
  const int64_t dim = out.dim();
  BlasCall blas{out.size(dim - 1), out.size(dim - 2), a.size(dim - 1), dim == 3 ? out.size(0) : 1,
                blas_matrix(b),    blas_matrix(a),    blas_matrix(out)};
  STD_TORCH_CHECK(!blas.c.transposed, "segdcn: a product's result must lie in memory by rows");
  return blas;
}

}  // namespace segdcn
