// The path through columns (deform_conv_columns.h), once for all devices.
//
// Forward, per chunk of output pixels:   columns = gather(input, offset, mask)
//                                        output  = columns x weight^T (+ bias)
// Backward, per chunk:                   grad_weight += grad_output^T x gather(...)
//                                        grad_columns = grad_output x weight
//                                        scatter(grad_columns) -> input, offset, mask
#include "deform_conv_columns.h"

#include <algorithm>

#include "dtypes.h"

namespace segdcn {
namespace {

// A (O, (kd,) kh, kw, C/groups) tensor as one matrix per group, (groups, O/groups, K * C/groups).
Tensor tap_matrix(const Tensor& taps_first, const ConvGeometry& g) {
  const int64_t rows = g.out_channels / g.groups, cols = g.columns() / g.groups;
  if (g.groups == 1) return torch::stable::reshape(taps_first, {rows, cols});
  return torch::stable::reshape(taps_first, {g.groups, rows, cols});
}

Tensor weight_matrix(const Tensor& weight, const ConvGeometry& g) {
  return tap_matrix(nhwc_view(nhwc(weight)), g);
}

int64_t pixels_per_chunk(const ConvGeometry& g, const Tensor& weight, int64_t batch, int64_t bytes_per_read) {
  // Fields and their gradients count too: with many offset groups they outweigh the columns.
  const int64_t bytes =
      g.columns() * static_cast<int64_t>(weight.element_size()) + g.taps() * g.offset_groups * bytes_per_read;
  return std::min(std::max<int64_t>(64, limits().columns / bytes / 64 * 64), batch * g.out_pixels());
}

// What a read costs beside its columns: offset, mask and their gradients, and, `sorted`, the keys, weights
// and sorting of its corners.
int64_t read_bytes(const ConvGeometry& g, bool sorted) { return 32 + (sorted ? g.corners() * 64 : 0); }

template <typename ChunkBody>
void for_each_chunk(int64_t num_pixels, int64_t chunk, const ChunkBody& body) {
  // Equal chunks: a short last one would run the matrix product at a poor size.
  const int64_t count = (num_pixels + chunk - 1) / chunk;
  for (int64_t i = 0; i < count; ++i) body(PixelRange{num_pixels * i / count, num_pixels * (i + 1) / count});
}

// Rows of an NHWC matrix (P, groups * n) as matrices per group, (P, n) or (groups, P, n); a view.
Tensor group_matrices(const Tensor& rows, int64_t groups) {
  if (groups == 1) return rows;
  return permuted(torch::stable::view(rows, {rows.size(0), groups, rows.size(1) / groups}), {1, 0, 2});
}

}  // namespace

Tensor ColumnBuffer::matrices(int64_t pixels) const {
  Tensor used = narrow(storage_, 0, 0, pixels * geometry_.columns());
  if (geometry_.groups == 1) return torch::stable::view(used, {pixels, geometry_.columns()});
  return torch::stable::view(used, {geometry_.groups, pixels, geometry_.columns() / geometry_.groups});
}

ColumnsForward::ColumnsForward(DType dtype, const ConvGeometry& geometry, const Tensor& weight, int64_t batch,
                               bool allow_tf32)
    : dtype_(dtype),
      geometry_(geometry),
      chunk_(pixels_per_chunk(geometry, weight, batch, read_bytes(geometry, false))),
      transposed_(torch::stable::transpose(weight_matrix(weight, geometry), -2, -1)),
      columns_(geometry, chunk_, weight),
      product_(allow_tf32) {}

void ColumnsForward::run(const Source& source, const void* bias, const Tensor& output) {
  const ConvGeometry& g = geometry_;
  const int64_t num_pixels = output.size(0) * g.out_pixels();
  const Tensor rows = torch::stable::view(output, {num_pixels, g.out_channels});
  for_each_chunk(num_pixels, chunk_, [&](PixelRange pixels) {
    const Tensor filled = columns_.matrices(pixels.size());
    gather(dtype_, g, pixels, source, filled.data_ptr());
    const Tensor target = narrow(rows, 0, pixels.begin, pixels.size());
    product_.multiply(filled, transposed_, group_matrices(target, g.groups));
    if (bias != nullptr) add_bias(dtype_, bias, pixels.size(), g.out_channels, target.data_ptr());
  });
}

ColumnsBackward::ColumnsBackward(DType dtype, const ConvGeometry& geometry, const Tensor& weight,
                                 int64_t batch, const std::optional<Tensor>& grad_weight, bool allow_tf32,
                                 bool deterministic)
    : dtype_(dtype),
      geometry_(geometry),
      chunk_(pixels_per_chunk(geometry, weight, batch,
                              read_bytes(geometry, deterministic && !scatters_in_order()))),
      matrix_(weight_matrix(weight, geometry)),
      columns_(geometry, chunk_, weight),
      product_(allow_tf32),
      in_order_(deterministic && !scatters_in_order()) {
  if (grad_weight) grad_matrix_ = tap_matrix(*grad_weight, geometry);
}

void ColumnsBackward::run(const Source& source, const Tensor& grad_rows, const GradientTargets& targets) {
  const ConvGeometry& g = geometry_;
  const int64_t num_images = grad_rows.size(0) / g.out_pixels();
  for_each_chunk(grad_rows.size(0), chunk_, [&](PixelRange pixels) {
    const Tensor used = columns_.matrices(pixels.size());
    const Tensor grads = group_matrices(narrow(grad_rows, 0, pixels.begin, pixels.size()), g.groups);
    if (grad_matrix_) {
      gather(dtype_, g, pixels, source, used.data_ptr());
      product_.multiply_add(torch::stable::transpose(grads, -2, -1), used, *grad_matrix_);
    }
    if (targets.input == nullptr && targets.offset.data == nullptr) return;
    product_.multiply(grads, matrix_, used);  // their gradient takes the columns' place
    const bool in_order = in_order_ && targets.input != nullptr;
    if (!in_order || targets.offset.data != nullptr)
      scatter(dtype_, g, pixels, source, used.data_ptr(), in_order ? nullptr : targets.input, targets.offset,
              targets.mask);
    if (in_order) add_in_order(pixels, source, used, num_images, targets.input);
  });
}

void ColumnsBackward::add_in_order(PixelRange pixels, const Source& source, const Tensor& grad_columns,
                                   int64_t num_images, void* grad_input) const {
  const int64_t corners = geometry_.corners() * pixels.size() * geometry_.taps() * geometry_.offset_groups;
  const ScalarType exact = accumulation_dtype(grad_columns.scalar_type());
  const Tensor keys = empty({corners}, ScalarType::Long, grad_columns);
  const Tensor weights = empty({corners}, exact, grad_columns);
  corner_keys(dtype_, geometry_, pixels, source, num_images, static_cast<int64_t*>(keys.data_ptr()),
              weights.data_ptr());
  const auto [sorted, order] = sorted_stably(keys);
  add_sorted(dtype_, geometry_, pixels, source, num_images,
             {static_cast<const int64_t*>(sorted.data_ptr()), static_cast<const int64_t*>(order.data_ptr()),
              weights.data_ptr()},
             grad_columns.data_ptr(), grad_input);
}

}  // namespace segdcn
