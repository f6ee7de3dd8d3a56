// The path through columns (deform_conv_columns.h), once for all devices.
//
// Forward, per chunk of output pixels:   columns = gather(input, offset, mask)
//                                        output  = columns x weight^T (+ bias)
// Backward, per chunk:                   grad_weight += grad_output^T x gather(...)
//                                        grad_columns = grad_output x weight
//                                        scatter(grad_columns) -> input, offset, mask
#include "deform_conv_columns.h"

#include <algorithm>

namespace segdcn {
namespace {

// A chunk's columns take at most this.
constexpr int64_t kChunkBytes = int64_t{16} << 20;

// out = a x b for matrices or batches of matrices.
void multiply(const Tensor& a, const Tensor& b, Tensor& out) {
  call(a.dim() == 2 ? "aten::mm" : "aten::bmm", "out", a, b, out);
}

// The weight as one matrix per group, (groups, O/groups, K * C/groups), taps before channels.
Tensor weight_matrix(const Tensor& weight, const ConvGeometry& g) {
  Tensor taps_first = permuted(torch::stable::contiguous(weight, MemoryFormat::ChannelsLast), {0, 2, 3, 1});
  const int64_t rows = g.out_channels / g.groups, cols = g.columns() / g.groups;
  if (g.groups == 1) return torch::stable::reshape(taps_first, {rows, cols});
  return torch::stable::reshape(taps_first, {g.groups, rows, cols});
}

int64_t pixels_per_chunk(const ConvGeometry& g, const Tensor& weight, int64_t batch) {
  // Fields and their gradients count too: with many offset groups they outweigh the columns.
  const int64_t bytes =
      g.columns() * static_cast<int64_t>(weight.element_size()) + g.taps() * g.offset_groups * 32;
  return std::min(std::max<int64_t>(64, kChunkBytes / bytes / 64 * 64), batch * g.out_pixels());
}

template <typename ChunkBody>
void for_each_chunk(int64_t num_pixels, int64_t chunk, const ChunkBody& body) {
  // Equal chunks: a short last one would run the matrix product at a poor size.
  const int64_t count = (num_pixels + chunk - 1) / chunk;
  for (int64_t i = 0; i < count; ++i) body(PixelRange{num_pixels * i / count, num_pixels * (i + 1) / count});
}

// Rows of an NHWC matrix (P, groups * n) as matrices per group, (P, n) or (groups, P, n).
Tensor group_matrices(const Tensor& rows, int64_t groups) {
  if (groups == 1) return rows;
  const int64_t pixels = rows.size(0), width = rows.size(1) / groups;
  return torch::stable::contiguous(
      permuted(torch::stable::reshape(rows, {pixels, groups, width}), {1, 0, 2}));
}

}  // namespace

Tensor ColumnBuffer::matrices(int64_t pixels) const {
  Tensor used = narrow(storage_, 0, 0, pixels * geometry_.columns());
  if (geometry_.groups == 1) return torch::stable::view(used, {pixels, geometry_.columns()});
  return torch::stable::view(used, {geometry_.groups, pixels, geometry_.columns() / geometry_.groups});
}

ColumnsForward::ColumnsForward(DType dtype, const ConvGeometry& geometry, const Tensor& weight, int64_t batch)
    : dtype_(dtype),
      geometry_(geometry),
      chunk_(pixels_per_chunk(geometry, weight, batch)),
      transposed_(torch::stable::transpose(weight_matrix(weight, geometry), -2, -1)),
      columns_(geometry, chunk_, weight) {}

void ColumnsForward::run(const Source& source, const void* bias, const Tensor& output) {
  const ConvGeometry& g = geometry_;
  const int64_t num_pixels = output.size(0) * g.out_pixels();
  const Tensor rows = torch::stable::view(output, {num_pixels, g.out_channels});
  for_each_chunk(num_pixels, chunk_, [&](PixelRange pixels) {
    Tensor filled = columns_.matrices(pixels.size());
    gather(dtype_, g, pixels, source, filled.data_ptr());
    Tensor target = narrow(rows, 0, pixels.begin, pixels.size());
    if (g.groups == 1) {
      multiply(filled, transposed_, target);
    } else {
      Tensor per_group =
          empty({g.groups, pixels.size(), g.out_channels / g.groups}, rows.scalar_type(), rows);
      multiply(filled, transposed_, per_group);
      torch::stable::copy_(
          target, torch::stable::reshape(permuted(per_group, {1, 0, 2}), {pixels.size(), g.out_channels}));
    }
    if (bias != nullptr) add_bias(dtype_, bias, pixels.size(), g.out_channels, target.data_ptr());
  });
}

ColumnsBackward::ColumnsBackward(DType dtype, const ConvGeometry& geometry, const Tensor& weight,
                                 int64_t batch, bool need_weight)
    : dtype_(dtype),
      geometry_(geometry),
      chunk_(pixels_per_chunk(geometry, weight, batch)),
      matrix_(weight_matrix(weight, geometry)),
      columns_(geometry, chunk_, weight) {
  if (!need_weight) return;
  const auto size = matrix_.sizes();
  grad_part_ = empty(std::vector<int64_t>(size.begin(), size.end()), weight.scalar_type(), weight);
}

void ColumnsBackward::run(const Source& source, const Tensor& grad_rows, const GradientTargets& targets) {
  const ConvGeometry& g = geometry_;
  for_each_chunk(grad_rows.size(0), chunk_, [&](PixelRange pixels) {
    Tensor used = columns_.matrices(pixels.size());
    const Tensor grads = group_matrices(narrow(grad_rows, 0, pixels.begin, pixels.size()), g.groups);
    if (targets.weight != nullptr) {
      gather(dtype_, g, pixels, source, used.data_ptr());
      multiply(torch::stable::transpose(grads, -2, -1), used, grad_part_);
      accumulate(dtype_, grad_part_.data_ptr(), grad_part_.numel(), targets.weight);
    }
    if (targets.input != nullptr || targets.offset.data != nullptr) {
      multiply(grads, matrix_, used);  // the columns are no longer needed: their gradient takes their place
      scatter(dtype_, g, pixels, source, used.data_ptr(), targets.input, targets.offset, targets.mask);
    }
  });
}

}  // namespace segdcn
