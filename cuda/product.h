// The matrix product of the path through columns: what each device's library does best.
#pragma once

#include "tensors.h"

namespace segdcn {

// Products of one call. Matrices are (rows, columns) tensors, or batches (groups, rows, columns), in
// which the elements of a row or of a column lie side by side; so are results, row by row.
class Product {
 public:
  // `allow_tf32`: float32 may be multiplied with 10 bits of mantissa, where a device offers it.
  explicit Product(bool allow_tf32) : allow_tf32_(allow_tf32) {}

  // out = a x b, all of one dtype.
  void multiply(const Tensor& a, const Tensor& b, const Tensor& out);
  // total += a x b; `total` has the accumulation type.
  void multiply_add(const Tensor& a, const Tensor& b, const Tensor& total);

 private:
  [[maybe_unused]] const bool allow_tf32_;
  Tensor part_;  // where a device's product does not add: the last one, to be reused
};

}  // namespace segdcn
