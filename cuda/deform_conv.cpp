// Deformable convolution in two and three dimensions, host side: check, allocate, go through the batch.
//
// Images are taken as they are where they are channels-last, and otherwise copied to NHWC a
// group of images at a time, so the memory beyond inputs and outputs does not grow with the
// batch. A group is then convolved on one of the two paths of deform_conv.h. Compiled once
// into each library.
#include "deform_conv.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "deform_conv_columns.h"
#include "deform_conv_ops.h"
#include "dtypes.h"
#include "tensors.h"

namespace segdcn {
namespace {

// ---------------------------------------------------------------- checks

// Whether a tensor has this size; in two dimensions without the third number, of planes.
bool has_size(const Tensor& t, std::vector<int64_t> size, int64_t dims) {
  if (dims == 2) size.erase(size.begin() + 2);
  const auto sizes = t.sizes();
  return std::equal(sizes.begin(), sizes.end(), size.begin(), size.end());
}

// segdcn.ops says in words what is wrong; this only keeps memory safe for who calls the
// registered operator directly.
ConvGeometry checked_geometry(const Tensor& input, const Tensor& weight, const Tensor& offset,
                              const std::optional<Tensor>& mask, const std::vector<int64_t>& stride,
                              const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation,
                              int64_t groups, int64_t offset_groups) {
  const char* hint =
      "segdcn: arguments do not fit; call segdcn.ops.deform_conv2d or deform_conv3d, which says why";
  const int64_t dims = input.dim() - 2;
  const auto has_dims = [&](const std::vector<int64_t>& setting) {
    return static_cast<int64_t>(setting.size()) == dims;
  };
  STD_TORCH_CHECK((dims == 2 || dims == 3) && weight.dim() == dims + 2 && has_dims(stride) &&
                      has_dims(padding) && has_dims(dilation) && groups > 0 && offset_groups > 0,
                  hint);
  ConvGeometry g{};
  g.dims = static_cast<int>(dims);
  g.channels = input.size(1), g.out_channels = weight.size(0);
  g.groups = groups, g.offset_groups = offset_groups;
  // Positions are worked out in 32 bits.
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  // One dimension, 0 for planes, 1 for rows, 2 for columns; planes are one in two dimensions.
  const auto set = [&](int64_t dim, int64_t& size, int64_t& kernel, int64_t& step, int64_t& pad,
                       int64_t& apart, int64_t& out_size) {
    const int64_t i = dim + dims - 3;
    if (i < 0) {
      size = kernel = step = apart = out_size = 1;
      return;
    }
    size = input.size(2 + i), kernel = weight.size(2 + i);
    step = stride[i], pad = padding[i], apart = dilation[i];
    STD_TORCH_CHECK(size > 0 && kernel > 0 && step > 0 && apart > 0, hint);
    for (int64_t value : {size, kernel, step, pad, apart}) STD_TORCH_CHECK(value <= most, hint);
    out_size = (size + 2 * pad - apart * (kernel - 1) - 1) / step + 1;
    const int64_t farthest = std::max(pad, (out_size - 1) * step + apart * (kernel - 1));
    STD_TORCH_CHECK(out_size > 0 && farthest <= most, hint);
  };
  set(0, g.depth, g.kernel_d, g.stride_d, g.padding_d, g.dilation_d, g.out_depth);
  set(1, g.height, g.kernel_h, g.stride_h, g.padding_h, g.dilation_h, g.out_height);
  set(2, g.width, g.kernel_w, g.stride_w, g.padding_w, g.dilation_w, g.out_width);
  const ScalarType exact = accumulation_dtype(input.scalar_type());
  const auto fits = [&](const Tensor& field, int64_t channels) {
    const ScalarType dtype = field.scalar_type();
    const bool half = dtype == ScalarType::Half || dtype == ScalarType::BFloat16;
    return has_size(field, {input.size(0), channels, g.out_depth, g.out_height, g.out_width}, dims) &&
           (dtype == exact || (half && exact == ScalarType::Float));
  };
  // The plane after the last one is counted as well before it is found to be outside.
  const int64_t next_plane = dims == 3 ? g.height * g.width : 0;
  STD_TORCH_CHECK(g.channels > 0 && g.pixels() + next_plane < most && g.channels == weight.size(1) * groups &&
                      g.out_channels % groups == 0 && g.channels % offset_groups == 0 &&
                      weight.scalar_type() == input.scalar_type() &&
                      fits(offset, dims * offset_groups * g.taps()) &&
                      (!mask || fits(*mask, offset_groups * g.taps())),
                  hint);
  return g;
}

// ---------------------------------------------------------------- views

// (batch, channels, ...) with the size of a map that `like` has.
std::vector<int64_t> image_size(int64_t batch, int64_t channels, const Tensor& like) {
  const auto sizes = like.sizes();
  std::vector<int64_t> size(sizes.begin(), sizes.end());
  size[0] = batch, size[1] = channels;
  return size;
}

FieldView field_view(const Tensor& field) {
  FieldView view;
  const int64_t absent = 5 - field.dim();  // planes
  for (int64_t dim = 0; dim < field.dim(); ++dim)
    view.stride[dim < 2 ? dim : dim + absent] = field.stride(dim);
  view.data = field.data_ptr();
  return view;
}

// Some images of an offset or a mask, in the accumulation type: a copy of half-precision ones.
class FieldImages {
 public:
  FieldImages(const std::optional<Tensor>& field, int64_t first, int64_t count, ScalarType exact) {
    if (!field) return;
    const Tensor images = narrow(*field, 0, first, count);
    images_ = images.scalar_type() == exact ? images : torch::stable::to(images, exact);
  }
  FieldView view() const { return images_ ? field_view(*images_) : FieldView{}; }

 private:
  std::optional<Tensor> images_;
};

// Where the gradient of some images of a field goes; `finish` rounds it to half precision where the field is.
class GradientImages {
 public:
  GradientImages(const std::optional<Tensor>& gradient, int64_t first, int64_t count, ScalarType exact) {
    if (!gradient) return;
    target_ = narrow(*gradient, 0, first, count);
    exact_ = gradient->scalar_type() == exact ? target_
                                              : torch::stable::new_empty(*target_, target_->sizes(), exact);
  }
  FieldView view() const { return exact_ ? field_view(*exact_) : FieldView{}; }
  void finish() {
    if (target_ && target_->scalar_type() != exact_->scalar_type()) torch::stable::copy_(*target_, *exact_);
  }

 private:
  std::optional<Tensor> target_, exact_;
};

// What a field costs per image in copies.
int64_t field_bytes(const std::optional<Tensor>& field, ScalarType exact) {
  if (!field || field->scalar_type() == exact || field->size(0) == 0) return 0;
  return field->numel() / field->size(0) * 4;
}

DenseView dense_view(const Tensor& images, bool channels_last) { return {images.data_ptr(), channels_last}; }

// The weight itself where it is dense, or a channels-last copy.
Tensor dense_weight(const Tensor& weight) {
  if (is_nhwc(weight) || is_nchw(weight)) return weight;
  return nhwc(weight);
}

WeightView weight_view(const Tensor& dense) { return {dense.data_ptr(), is_nhwc(dense)}; }

// How many images are taken at a time, where one costs `image_bytes` in copies.
int64_t images_per_group(int64_t batch, int64_t image_bytes) {
  return image_bytes == 0 ? batch : std::min(batch, std::max<int64_t>(1, limits().images / image_bytes));
}

// Calls body(first_image, num_images) for groups of images.
template <typename GroupBody>
void for_each_image_group(int64_t batch, int64_t image_bytes, const GroupBody& body) {
  const int64_t step = images_per_group(batch, image_bytes);
  for (int64_t first = 0; first < batch; first += step) body(first, std::min(step, batch - first));
}

}  // namespace

// ---------------------------------------------------------------- forward

Tensor deform_conv(const Tensor& input, const Tensor& weight, const Tensor& offset,
                   const std::optional<Tensor>& mask, const std::optional<Tensor>& bias,
                   const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                   const std::vector<int64_t>& dilation, int64_t groups, int64_t offset_groups,
                   bool channels_last, bool allow_tf32) {
  const CurrentDevice device(input);
  const ConvGeometry g =
      checked_geometry(input, weight, offset, mask, stride, padding, dilation, groups, offset_groups);
  const int64_t batch = input.size(0), element = static_cast<int64_t>(input.element_size());
  const ScalarType scalar = input.scalar_type(), exact = accumulation_dtype(scalar);
  const DType dtype = kernel_dtype(scalar);
  STD_TORCH_CHECK(!bias || (bias->numel() == g.out_channels && bias->scalar_type() == scalar),
                  "segdcn: bias must be (O,) of the input's dtype");
  Tensor output = empty_image(image_size(batch, g.out_channels, offset), channels_last, scalar, input);
  if (batch == 0) return output;
  const std::optional<Tensor> dense_bias =
      bias ? std::optional<Tensor>(torch::stable::contiguous(*bias)) : std::nullopt;

  const bool direct = computes_directly(dtype);
  const int64_t input_bytes = element * g.channels * g.pixels();
  const int64_t output_bytes = direct || channels_last ? 0 : element * g.out_channels * g.out_pixels();
  const int64_t image_bytes = (is_nhwc(input) ? 0 : input_bytes) + output_bytes + field_bytes(offset, exact) +
                              field_bytes(mask, exact);

  if (direct) {
    const Tensor dense = dense_weight(weight);
    const auto convolution = direct_forward(dtype, g, weight_view(dense));
    for_each_image_group(batch, image_bytes, [&](int64_t first, int64_t count) {
      const Tensor images = nhwc_images(input, first, count);
      const FieldImages offsets(offset, first, count, exact), masks(mask, first, count, exact);
      const Source source{images.data_ptr(), offsets.view(), masks.view()};
      convolution->run(source, count, dense_bias ? dense_bias->data_ptr() : nullptr,
                       dense_view(narrow(output, 0, first, count), channels_last));
    });
    return output;
  }
  ColumnsForward convolution(dtype, g, weight, batch, allow_tf32);
  for_each_image_group(batch, image_bytes, [&](int64_t first, int64_t count) {
    const Tensor images = nhwc_images(input, first, count);
    Tensor part = narrow(output, 0, first, count);
    Tensor rows = nhwc_view(
        channels_last ? part : empty_image(image_size(count, g.out_channels, offset), true, scalar, input));
    const FieldImages offsets(offset, first, count, exact), masks(mask, first, count, exact);
    const Source source{images.data_ptr(), offsets.view(), masks.view()};
    convolution.run(source, dense_bias ? dense_bias->data_ptr() : nullptr, rows);
    if (!channels_last) torch::stable::copy_(part, nchw_view(rows));
  });
  return output;
}

// ---------------------------------------------------------------- backward

std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight, const Tensor& offset,
    const std::optional<Tensor>& mask, const std::vector<int64_t>& stride,
    const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups,
    int64_t offset_groups, bool channels_last, bool allow_tf32, bool need_input, bool need_weight,
    bool need_offset, bool deterministic) {
  const CurrentDevice device(input);
  const ConvGeometry g =
      checked_geometry(input, weight, offset, mask, stride, padding, dilation, groups, offset_groups);
  const int64_t batch = input.size(0), element = static_cast<int64_t>(input.element_size());
  const ScalarType scalar = input.scalar_type(), exact = accumulation_dtype(scalar);
  const DType dtype = kernel_dtype(scalar);
  STD_TORCH_CHECK(
      has_size(grad_output, {batch, g.out_channels, g.out_depth, g.out_height, g.out_width}, g.dims) &&
          grad_output.scalar_type() == scalar,
      "segdcn: grad_output does not have the output's shape and dtype");

  // What is not needed has no elements; each has its own, since results must not alias.
  const auto nothing = [&] { return empty({0}, scalar, input); };
  Tensor grad_input = nothing(), grad_offset = nothing(), grad_mask = nothing(), grad_weight = nothing();
  // Half-precision gradients add up in float32, so grad_input needs a copy then as well.
  const bool accumulates_in_place = need_input && channels_last && exact == scalar;
  if (need_input) {
    grad_input = empty_image(image_size(batch, g.channels, input), channels_last, scalar, input);
  }
  if (need_offset) {
    const int64_t fields = g.offset_groups * g.taps();
    const auto like = [&](const Tensor& field, int64_t channels) {
      return empty_image(image_size(batch, channels, field), channels_last, field.scalar_type(), input);
    };
    grad_offset = like(offset, g.dims * fields);
    if (mask) grad_mask = like(*mask, fields);
  }
  Tensor grad_matrix;  // (O, (kd,) kh, kw, C/groups)
  if (need_weight) {
    const bool written = computes_directly(dtype) && batch > 0;
    grad_matrix =
        nhwc_view(empty_image(image_size(g.out_channels, g.channels / g.groups, weight), true, exact, input));
    if (!written) torch::stable::zero_(grad_matrix);
  }

  const bool direct = computes_directly(dtype);
  const int64_t exact_bytes = exact == ScalarType::Double ? 8 : 4;
  const int64_t input_elements = g.channels * g.pixels();
  const bool copies_gradient =
      direct ? !is_nhwc(grad_output) && !is_nchw(grad_output) : !is_nhwc(grad_output);
  const int64_t image_bytes = (is_nhwc(input) ? 0 : element * input_elements) +
                              (need_input && !accumulates_in_place ? exact_bytes * input_elements : 0) +
                              (copies_gradient ? element * g.out_channels * g.out_pixels() : 0) +
                              2 * (field_bytes(offset, exact) + field_bytes(mask, exact));
  const auto asked = [](bool needed, const Tensor& gradient) {
    return needed ? std::optional<Tensor>(gradient) : std::nullopt;
  };

  const Tensor dense = direct ? dense_weight(weight) : weight;
  const auto direct_convolution = direct && batch > 0 ? direct_backward(dtype, g, weight_view(dense),
                                                                        images_per_group(batch, image_bytes))
                                                      : nullptr;
  std::optional<ColumnsBackward> columns_convolution;
  if (!direct && batch > 0)
    columns_convolution.emplace(dtype, g, weight, batch, asked(need_weight, grad_matrix), allow_tf32,
                                deterministic);

  Tensor accumulator;  // of grad_input, one for all groups of images
  if (need_input && !accumulates_in_place)
    accumulator = nhwc_view(
        empty_image(image_size(images_per_group(batch, image_bytes), g.channels, input), true, exact, input));
  for_each_image_group(batch, image_bytes, [&](int64_t first, int64_t count) {
    const Tensor images = nhwc_images(input, first, count);
    const FieldImages offsets(offset, first, count, exact), masks(mask, first, count, exact);
    const Source source{images.data_ptr(), offsets.view(), masks.view()};
    GradientImages grad_offsets(asked(need_offset, grad_offset), first, count, exact);
    GradientImages grad_masks(asked(need_offset && mask, grad_mask), first, count, exact);
    Tensor grad_images, grad_target;
    if (need_input) {
      grad_target = narrow(grad_input, 0, first, count);
      grad_images = accumulates_in_place ? nhwc_view(grad_target) : narrow(accumulator, 0, 0, count);
      torch::stable::zero_(grad_images);
    }
    GradientTargets targets{need_input ? grad_images.data_ptr() : nullptr,
                            need_weight ? grad_matrix.data_ptr() : nullptr, grad_offsets.view(),
                            grad_masks.view()};
    if (direct) {
      Tensor grads = narrow(grad_output, 0, first, count);
      const bool nchw = !is_nhwc(grads) && is_nchw(grads);
      if (!nchw) grads = nhwc(grads);
      direct_convolution->run(source, count, dense_view(grads, !nchw), targets);
    } else {
      const Tensor rows = torch::stable::reshape(nhwc_view(nhwc_images(grad_output, first, count)),
                                                 {count * g.out_pixels(), g.out_channels});
      columns_convolution->run(source, rows, targets);
    }
    grad_offsets.finish();
    grad_masks.finish();
    if (need_input && !accumulates_in_place) torch::stable::copy_(grad_target, nchw_view(grad_images));
  });

  if (need_weight) grad_weight = nchw_view(torch::stable::to(grad_matrix, scalar));
  return {grad_input, grad_weight, grad_offset, grad_mask};
}

}  // namespace segdcn
