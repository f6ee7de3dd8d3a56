// The path through columns: gather a chunk of pixels into a matrix, multiply it with a
// vendor's product, and, backward, scatter its gradient.
#pragma once

#include <optional>

#include "deform_conv.h"
#include "product.h"
#include "tensors.h"

namespace segdcn {

// Columns of the largest chunk, reused by all; `size` pixels of it seen as matrices.
class ColumnBuffer {
 public:
  ColumnBuffer(const ConvGeometry& g, int64_t pixels, const Tensor& like)
      : geometry_(g), storage_(empty({pixels * g.columns()}, like.scalar_type(), like)) {}

  Tensor matrices(int64_t pixels) const;  // (P, K*C) or (groups, P, K*C/groups)

 private:
  const ConvGeometry& geometry_;
  Tensor storage_;
};

// One call's forward, for one group of images after the other.
class ColumnsForward {
 public:
  ColumnsForward(DType dtype, const ConvGeometry& geometry, const Tensor& weight, int64_t batch,
                 bool allow_tf32);
  // rows (images, (Do,) Ho, Wo, O) = convolution + bias (null: none).
  void run(const Source& source, const void* bias, const Tensor& rows);

 private:
  const DType dtype_;
  const ConvGeometry& geometry_;
  const int64_t chunk_;
  const Tensor transposed_;  // (K*C, O) or (groups, K*C/groups, O/groups)
  ColumnBuffer columns_;
  Product product_;
};

// One call's backward; what the targets do not ask for is left out.
class ColumnsBackward {
 public:
  // grad_weight: (O, (kd,) kh, kw, C/groups) of the accumulation type, added to; or none.
  ColumnsBackward(DType dtype, const ConvGeometry& geometry, const Tensor& weight, int64_t batch,
                  const std::optional<Tensor>& grad_weight, bool allow_tf32, bool deterministic);
  // grad_rows: (images * Do * Ho * Wo, O). The target of the weight is the constructor's.
  void run(const Source& source, const Tensor& grad_rows, const GradientTargets& targets);

 private:
  void add_in_order(PixelRange pixels, const Source& source, const Tensor& grad_columns, int64_t num_images,
                    void* grad_input) const;

  const DType dtype_;
  const ConvGeometry& geometry_;
  const int64_t chunk_;
  const Tensor matrix_;  // (O, K*C) or (groups, O/groups, K*C/groups)
  ColumnBuffer columns_;
  std::optional<Tensor> grad_matrix_;  // likewise
  Product product_;
  const bool in_order_;  // the input's gradient is to be summed in a fixed order
};

}  // namespace segdcn
