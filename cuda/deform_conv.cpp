// Deformable convolution, host side: check, allocate, cut into chunks, multiply.
//
// Forward, per chunk of output pixels:   columns = gather(input, offset, mask)
//                                        output  = columns x weight^T (+ bias)
// Backward, per chunk:                   grad_weight += grad_output^T x gather(...)
//                                        grad_columns = grad_output x weight
//                                        scatter(grad_columns) -> input, offset, mask
//
// A chunk's columns take at most kChunkBytes, so the memory beyond inputs and outputs does
// not grow with the batch. Compiled once into each library; the inner loops it calls are
// that library's own (deform_conv.h).
#include "deform_conv.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "deform_conv_ops.h"

namespace segdcn {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kChunkBytes = int64_t{16} << 20;
// Copies to NHWC and float32 accumulators are made for as many images as fit into this.
constexpr int64_t kImageBytes = int64_t{16} << 20;

// ---------------------------------------------------------------- ATen calls

// Call an operator that the stable headers of torch 2.11 do not wrap.
template <typename... Args>
Tensor call(const char* name, const char* overload, const Args&... args) {
  std::array<StableIValue, sizeof...(Args)> stack{torch::stable::detail::from(args)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

Tensor permuted(const Tensor& tensor, std::vector<int64_t> order) {
  return call("aten::permute", "", tensor, order);
}

Tensor empty(std::vector<int64_t> size, ScalarType dtype, const Tensor& like) {
  return torch::stable::new_empty(like, size, dtype);
}

Tensor zeros(std::vector<int64_t> size, ScalarType dtype, const Tensor& like) {
  return torch::stable::new_zeros(like, size, dtype);
}

// out = a x b for matrices or batches of matrices.
void multiply(const Tensor& a, const Tensor& b, Tensor& out) {
  call(a.dim() == 2 ? "aten::mm" : "aten::bmm", "out", a, b, out);
}

// ---------------------------------------------------------------- layouts

// NHWC memory of images [first, first + count): a view where the tensor is channels-last.
Tensor nhwc_images(const Tensor& tensor, int64_t first, int64_t count) {
  Tensor part = tensor;
  return torch::stable::contiguous(torch::stable::narrow(part, 0, first, count), MemoryFormat::ChannelsLast);
}

bool is_nhwc(const Tensor& t) {
  int64_t expected = 1;
  for (int dim : {1, 3, 2, 0}) {
    if (t.size(dim) != 1 && t.stride(dim) != expected) return false;
    expected *= t.size(dim);
  }
  return true;
}

// (B, C, H, W) view of NHWC memory, or a fresh NCHW tensor.
Tensor empty_image(std::vector<int64_t> bchw, bool channels_last, ScalarType dtype, const Tensor& like) {
  if (!channels_last) return empty(bchw, dtype, like);
  return permuted(empty({bchw[0], bchw[2], bchw[3], bchw[1]}, dtype, like), {0, 3, 1, 2});
}

FieldView field_view(const Tensor& field, int64_t first_image) {
  FieldView view;
  for (int dim = 0; dim < 4; ++dim) view.stride[dim] = field.stride(dim);
  view.data = static_cast<char*>(field.data_ptr()) +
              first_image * view.stride[0] * static_cast<int64_t>(field.element_size());
  return view;
}

FieldView field_view(const std::optional<Tensor>& field, int64_t first_image) {
  return field ? field_view(*field, first_image) : FieldView{};
}

// The weight as one matrix per group, (groups, O/groups, K * C/groups), taps before channels.
Tensor weight_matrix(const Tensor& weight, const ConvGeometry& g) {
  Tensor taps_first = permuted(torch::stable::contiguous(weight, MemoryFormat::ChannelsLast), {0, 2, 3, 1});
  const int64_t rows = g.out_channels / g.groups, cols = g.columns() / g.groups;
  if (g.groups == 1) return torch::stable::reshape(taps_first, {rows, cols});
  return torch::stable::reshape(taps_first, {g.groups, rows, cols});
}

// ---------------------------------------------------------------- types

DType kernel_dtype(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return DType::kFloat;
    case ScalarType::Double: return DType::kDouble;
    case ScalarType::Half: return DType::kHalf;
    case ScalarType::BFloat16: return DType::kBFloat16;
    default: STD_TORCH_CHECK(false, "segdcn: input must be float16, bfloat16, float32 or float64");
  }
}

ScalarType accumulation_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// ---------------------------------------------------------------- checks

// segdcn.ops says in words what is wrong; this only keeps memory safe for who calls the
// registered operator directly.
ConvGeometry checked_geometry(const Tensor& input, const Tensor& weight, const Tensor& offset,
                              const std::optional<Tensor>& mask, const std::vector<int64_t>& stride,
                              const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                              int64_t groups, int64_t offset_groups) {
  const char* hint =
      "segdcn::deform_conv2d: arguments do not fit; call segdcn.ops.deform_conv2d, which says why";
  STD_TORCH_CHECK(input.dim() == 4 && weight.dim() == 4 && offset.dim() == 4 && stride.size() == 2 &&
                      padding.size() == 2 && dilation.size() == 2 && groups > 0 && offset_groups > 0,
                  hint);
  ConvGeometry g{input.size(1),  input.size(2),  input.size(3), weight.size(0), 0,          0,
                 weight.size(2), weight.size(3), stride[0],     stride[1],      padding[0], padding[1],
                 dilation[0],    dilation[1],    groups,        offset_groups};
  STD_TORCH_CHECK(g.stride_h > 0 && g.stride_w > 0 && g.dilation_h > 0 && g.dilation_w > 0 && g.taps() > 0,
                  hint);
  g.out_height = (g.height + 2 * g.padding_h - g.dilation_h * (g.kernel_h - 1) - 1) / g.stride_h + 1;
  g.out_width = (g.width + 2 * g.padding_w - g.dilation_w * (g.kernel_w - 1) - 1) / g.stride_w + 1;
  const auto fits = [&](const Tensor& field, int64_t channels) {
    return field.dim() == 4 && field.size(0) == input.size(0) && field.size(1) == channels &&
           field.size(2) == g.out_height && field.size(3) == g.out_width &&
           field.scalar_type() == accumulation_dtype(input.scalar_type());
  };
  STD_TORCH_CHECK(g.channels > 0 && g.height > 0 && g.width > 0 && g.out_height > 0 && g.out_width > 0 &&
                      g.height * g.width < std::numeric_limits<int32_t>::max() &&
                      g.channels == weight.size(1) * groups && g.out_channels % groups == 0 &&
                      g.channels % offset_groups == 0 && weight.scalar_type() == input.scalar_type() &&
                      fits(offset, 2 * offset_groups * g.taps()) &&
                      (!mask || fits(*mask, offset_groups * g.taps())),
                  hint);
  return g;
}

// ---------------------------------------------------------------- chunks

// Calls body(first_image, num_images, PixelRange) for every chunk; the ranges count from
// the first image of their group. `image_bytes`: what one image costs in copies.
template <typename GroupBody>
void for_each_image_group(int64_t batch, int64_t image_bytes, const GroupBody& body) {
  const int64_t step = image_bytes == 0 ? batch : std::max<int64_t>(1, kImageBytes / image_bytes);
  for (int64_t first = 0; first < batch; first += step) body(first, std::min(step, batch - first));
}

int64_t pixels_per_chunk(const ConvGeometry& g, int64_t element_size) {
  // Fields and their gradients count too: with many offset groups they outweigh the columns.
  const int64_t bytes = g.columns() * element_size + g.taps() * g.offset_groups * 32;
  return std::max<int64_t>(64, kChunkBytes / bytes / 64 * 64);
}

template <typename ChunkBody>
void for_each_chunk(int64_t num_pixels, int64_t chunk, const ChunkBody& body) {
  // Equal chunks: a short last one would run the matrix product at a poor size.
  const int64_t count = (num_pixels + chunk - 1) / chunk;
  for (int64_t i = 0; i < count; ++i) body(PixelRange{num_pixels * i / count, num_pixels * (i + 1) / count});
}

// Columns of the largest chunk, reused by all; `size` pixels of it seen as matrices.
struct ColumnBuffer {
  ColumnBuffer(const ConvGeometry& g, int64_t pixels, const Tensor& like)
      : geometry(g), storage(empty({pixels * g.columns()}, like.scalar_type(), like)) {}

  Tensor matrices(int64_t pixels) const {  // (P, K*C) or (groups, P, K*C/groups)
    Tensor whole = storage;
    Tensor used = torch::stable::narrow(whole, 0, 0, pixels * geometry.columns());
    if (geometry.groups == 1) return torch::stable::view(used, {pixels, geometry.columns()});
    return torch::stable::view(used, {geometry.groups, pixels, geometry.columns() / geometry.groups});
  }

  const ConvGeometry& geometry;
  Tensor storage;
};

// Rows of an NHWC matrix (P, groups * n) as matrices per group, (P, n) or (groups, P, n).
Tensor group_matrices(const Tensor& rows, int64_t groups) {
  if (groups == 1) return rows;
  const int64_t pixels = rows.size(0), width = rows.size(1) / groups;
  return torch::stable::contiguous(
      permuted(torch::stable::reshape(rows, {pixels, groups, width}), {1, 0, 2}));
}

}  // namespace

// ---------------------------------------------------------------- forward

Tensor deform_conv2d(const Tensor& input, const Tensor& weight, const Tensor& offset,
                     const std::optional<Tensor>& mask, const std::optional<Tensor>& bias,
                     const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                     const std::vector<int64_t>& dilation, int64_t groups, int64_t offset_groups,
                     bool channels_last) {
  const ConvGeometry g =
      checked_geometry(input, weight, offset, mask, stride, padding, dilation, groups, offset_groups);
  const int64_t batch = input.size(0), element = static_cast<int64_t>(input.element_size());
  const ScalarType scalar = input.scalar_type();
  const DType dtype = kernel_dtype(scalar);
  STD_TORCH_CHECK(!bias || (bias->numel() == g.out_channels && bias->scalar_type() == scalar),
                  "segdcn::deform_conv2d: bias must be (O,) of the input's dtype");

  // NHWC throughout; an NCHW result is written image group by image group.
  const bool copies = !is_nhwc(input) || !channels_last;
  const int64_t image_bytes =
      copies ? element * (g.channels * g.height * g.width + g.out_channels * g.out_pixels()) : 0;
  Tensor output =
      empty_image({batch, g.out_channels, g.out_height, g.out_width}, channels_last, scalar, input);
  if (batch == 0) return output;

  const int64_t chunk = pixels_per_chunk(g, element);
  const Tensor matrix = weight_matrix(weight, g);
  const Tensor transposed = torch::stable::transpose(matrix, -2, -1);
  const std::optional<Tensor> dense_bias =
      bias ? std::optional<Tensor>(torch::stable::contiguous(*bias)) : std::nullopt;
  ColumnBuffer columns(g, std::min(chunk, batch * g.out_pixels()), input);

  for_each_image_group(batch, image_bytes, [&](int64_t first, int64_t count) {
    const Tensor images = nhwc_images(input, first, count);
    Tensor part = torch::stable::narrow(output, 0, first, count);
    Tensor dense = channels_last ? permuted(part, {0, 2, 3, 1})
                                 : empty({count, g.out_height, g.out_width, g.out_channels}, scalar, input);
    Tensor rows = torch::stable::view(dense, {count * g.out_pixels(), g.out_channels});

    for_each_chunk(count * g.out_pixels(), chunk, [&](PixelRange pixels) {
      Tensor filled = columns.matrices(pixels.size());
      gather(dtype, g, pixels, images.data_ptr(), field_view(offset, first), field_view(mask, first),
             filled.data_ptr());
      Tensor target = torch::stable::narrow(rows, 0, pixels.begin, pixels.size());
      if (g.groups == 1) {
        multiply(filled, transposed, target);
      } else {
        Tensor per_group = empty({g.groups, pixels.size(), g.out_channels / g.groups}, scalar, input);
        multiply(filled, transposed, per_group);
        torch::stable::copy_(
            target, torch::stable::reshape(permuted(per_group, {1, 0, 2}), {pixels.size(), g.out_channels}));
      }
      if (dense_bias)
        add_bias(dtype, dense_bias->data_ptr(), pixels.size(), g.out_channels, target.data_ptr());
    });
    if (!channels_last) torch::stable::copy_(part, permuted(dense, {0, 3, 1, 2}));
  });
  return output;
}

// ---------------------------------------------------------------- backward

std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight, const Tensor& offset,
    const std::optional<Tensor>& mask, const std::vector<int64_t>& stride,
    const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups,
    int64_t offset_groups, bool channels_last, bool need_input, bool need_weight, bool need_offset) {
  const ConvGeometry g =
      checked_geometry(input, weight, offset, mask, stride, padding, dilation, groups, offset_groups);
  const int64_t batch = input.size(0), element = static_cast<int64_t>(input.element_size());
  const ScalarType scalar = input.scalar_type(), exact = accumulation_dtype(scalar);
  const DType dtype = kernel_dtype(scalar);
  STD_TORCH_CHECK(grad_output.dim() == 4 && grad_output.size(0) == batch &&
                      grad_output.size(1) == g.out_channels && grad_output.size(2) == g.out_height &&
                      grad_output.size(3) == g.out_width && grad_output.scalar_type() == scalar,
                  "segdcn::deform_conv2d_backward: grad_output does not have the output's shape and dtype");

  // Half-precision gradients add up in float32, so grad_input needs a copy then as well.
  const bool accumulates_in_place = need_input && channels_last && exact == scalar;
  const bool copies = !is_nhwc(input) || !is_nhwc(grad_output) || (need_input && !accumulates_in_place);
  const int64_t exact_bytes = exact == ScalarType::Double ? 8 : 4;
  const int64_t image_bytes = copies ? (element + exact_bytes) * g.channels * g.height * g.width +
                                           element * g.out_channels * g.out_pixels()
                                     : 0;

  // What is not needed has no elements; each has its own, since results must not alias.
  const auto nothing = [&] { return empty({0}, scalar, input); };
  Tensor grad_input = nothing(), grad_offset = nothing(), grad_mask = nothing(), grad_weight = nothing();
  if (need_input) {
    grad_input = empty_image({batch, g.channels, g.height, g.width}, channels_last, scalar, input);
    if (accumulates_in_place) torch::stable::zero_(grad_input);
  }
  if (need_offset) {
    const int64_t fields = g.offset_groups * g.taps();
    grad_offset = empty_image({batch, 2 * fields, g.out_height, g.out_width}, channels_last, exact, input);
    if (mask)
      grad_mask = empty_image({batch, fields, g.out_height, g.out_width}, channels_last, exact, input);
  }
  const std::optional<Tensor> offset_target = need_offset ? std::optional<Tensor>(grad_offset) : std::nullopt;
  const std::optional<Tensor> mask_target =
      need_offset && mask ? std::optional<Tensor>(grad_mask) : std::nullopt;

  const Tensor matrix = weight_matrix(weight, g);
  Tensor grad_matrix, grad_part;
  if (need_weight) {
    const auto size = matrix.sizes();
    const std::vector<int64_t> shape(size.begin(), size.end());
    grad_matrix = zeros(shape, exact, input);
    grad_part = empty(shape, scalar, input);
  }

  const int64_t chunk = pixels_per_chunk(g, element);
  ColumnBuffer columns(g, std::min(chunk, batch * g.out_pixels()), input);

  for_each_image_group(batch, image_bytes, [&](int64_t first, int64_t count) {
    const Tensor images = nhwc_images(input, first, count);
    const Tensor rows = torch::stable::reshape(permuted(nhwc_images(grad_output, first, count), {0, 2, 3, 1}),
                                               {count * g.out_pixels(), g.out_channels});
    Tensor grad_images, grad_target;
    if (need_input) {
      grad_target = torch::stable::narrow(grad_input, 0, first, count);
      grad_images = accumulates_in_place ? permuted(grad_target, {0, 2, 3, 1})
                                         : zeros({count, g.height, g.width, g.channels}, exact, input);
    }
    const FieldView offset_part = field_view(offset, first), mask_part = field_view(mask, first);

    for_each_chunk(count * g.out_pixels(), chunk, [&](PixelRange pixels) {
      Tensor used = columns.matrices(pixels.size());
      Tensor rows_part = rows;
      const Tensor grads =
          group_matrices(torch::stable::narrow(rows_part, 0, pixels.begin, pixels.size()), g.groups);
      if (need_weight) {
        gather(dtype, g, pixels, images.data_ptr(), offset_part, mask_part, used.data_ptr());
        multiply(torch::stable::transpose(grads, -2, -1), used, grad_part);
        accumulate(dtype, grad_part.data_ptr(), grad_part.numel(), grad_matrix.data_ptr());
      }
      if (need_input || need_offset) {
        multiply(grads, matrix, used);  // the columns are no longer needed: their gradient takes their place
        scatter(dtype, g, pixels, images.data_ptr(), offset_part, mask_part, used.data_ptr(),
                need_input ? grad_images.data_ptr() : nullptr, field_view(offset_target, first),
                field_view(mask_target, first));
      }
    });
    if (need_input && !accumulates_in_place)
      torch::stable::copy_(grad_target, permuted(grad_images, {0, 3, 1, 2}));
  });

  if (need_weight) {
    const Tensor rounded = torch::stable::to(grad_matrix, scalar);
    grad_weight = permuted(
        torch::stable::view(rounded, {g.out_channels, g.kernel_h, g.kernel_w, g.channels / g.groups}),
        {0, 3, 1, 2});
  }
  return {grad_input, grad_weight, grad_offset, grad_mask};
}

}  // namespace segdcn
