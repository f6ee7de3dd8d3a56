// RoI pooling, host side: check, arrange in memory, go. Compiled once into each library.
//
// Both operators are one computation (roi_sampling.h). Where channels of a bin do not lie side by side, the
// map is copied so that they do, unless a device reads it faster as it is.
#include "roi_pool.h"

#include <limits>

#include "dtypes.h"
#include "roi_pool_ops.h"
#include "tensors.h"

namespace segdcn {
namespace {

// What both operators' arguments come down to. Keeps the tensors that `call` points into.
struct Arguments {
  RoiCall call;
  Tensor rois;
  std::optional<Tensor> offset;
  ScalarType exact;
  int64_t channels() const { return call.classes * call.run; }  // of the result
};

void require(bool fits) {
  STD_TORCH_CHECK(
      fits, "segdcn: the arguments of a RoI pooling do not fit; call it through segdcn.ops, which says why");
}

// segdcn.ops says in words what is wrong; this only keeps memory safe for who calls the registered operators
// directly. `call` comes with the settings, this adds the sizes.
Arguments arguments(RoiCall call, const Tensor& input, const Tensor& rois,
                    const std::optional<Tensor>& offset, int64_t depth, const std::vector<int64_t>& pooled,
                    const std::vector<int64_t>& parts, int64_t group_size, int64_t samples) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  require(input.dim() == 4 && rois.dim() == 2 && rois.size(1) == 5 && pooled.size() == 2 &&
          parts.size() == 2);
  const int64_t height = input.size(2), width = input.size(3);
  require(height > 0 && width > 0 && height <= most / width && depth > 0 && group_size > 0 &&
          group_size <= 1 << 14 && input.size(1) == depth * group_size * group_size);
  require(pooled[0] > 0 && pooled[1] > 0 && parts[0] > 0 && parts[1] > 0 && pooled[0] <= (1 << 14) &&
          pooled[1] <= (1 << 14) && parts[0] <= (1 << 14) && parts[1] <= (1 << 14));
  require(samples >= (call.position_sensitive ? 1 : 0) && samples <= 1 << 24);
  int64_t classes = 1;
  if (offset) {
    require(offset->dim() == 4 && offset->size(0) == rois.size(0) && offset->size(1) > 0 &&
            offset->size(1) % 2 == 0 && offset->size(2) == parts[0] && offset->size(3) == parts[1]);
    classes = offset->size(1) / 2;
    require(depth % classes == 0 && (call.position_sensitive || classes == 1));
  }
  const auto narrow = [](int64_t value) { return static_cast<int32_t>(value); };
  call.batch = input.size(0), call.num_rois = rois.size(0), call.run = depth / classes;
  call.height = narrow(height), call.width = narrow(width);
  call.pooled_h = narrow(pooled[0]), call.pooled_w = narrow(pooled[1]);
  call.part_h = narrow(parts[0]), call.part_w = narrow(parts[1]);
  call.group_size = narrow(group_size), call.classes = narrow(classes), call.samples = narrow(samples);

  const ScalarType exact = accumulation_dtype(input.scalar_type());
  Arguments all{call, torch::stable::contiguous(torch::stable::to(rois, exact)), std::nullopt, exact};
  all.call.rois = all.rois.data_ptr();
  if (offset) {
    all.offset = torch::stable::contiguous(torch::stable::to(*offset, exact));
    all.call.offset = all.offset->data_ptr();
  }
  return all;
}

// ---------------------------------------------------------------- maps in memory

// A dense map as it is.
MapView strided_view(const RoiCall& call, const Tensor& map) {
  const int64_t pixels = int64_t{call.height} * call.width, channels = map.size(1), groups = call.groups();
  if (is_nhwc(map)) return {map.data_ptr(), pixels * channels, channels, 1, groups};
  return {map.data_ptr(), pixels * channels, 1, pixels, groups * pixels};
}

// (B, C, H, W) -> (B, H, W, group, C / groups): a view.
Tensor grouped(const RoiCall& call, const Tensor& map) {
  const int64_t groups = call.groups();
  const Tensor split = torch::stable::reshape(
      map, {map.size(0), map.size(1) / groups, groups, int64_t{call.height}, int64_t{call.width}});
  return permuted(split, {0, 3, 4, 2, 1});
}

MapView grouped_view(const RoiCall& call, void* data, int64_t channels) {
  return {data, int64_t{call.height} * call.width * channels, channels, channels / call.groups(), 1};
}

bool stays_as_it_is(const RoiCall& call, const Tensor& map) {
  if (call.group_size == 1 && is_nhwc(map)) return true;  // side by side already
  return pools_strided(call, map.numel()) && (is_nhwc(map) || is_nchw(map));
}

// The map to read, as it is or rearranged.
struct Map {
  Tensor tensor;
  MapView view;
};
Map arranged(const RoiCall& call, const Tensor& input) {
  if (stays_as_it_is(call, input)) return {input, strided_view(call, input)};
  const Tensor copy = torch::stable::contiguous(grouped(call, input));
  return {copy, grouped_view(call, copy.data_ptr(), input.size(1))};
}

// ---------------------------------------------------------------- forward, backward

Tensor pooled(const Arguments& all, const Tensor& input, bool channels_last) {
  const RoiCall& call = all.call;
  const ScalarType scalar = input.scalar_type();
  const std::vector<int64_t> size{call.num_rois, all.channels(), int64_t{call.pooled_h},
                                  int64_t{call.pooled_w}};
  Tensor output = empty_image(size, channels_last, scalar, input);
  if (call.num_rois == 0) return output;
  const Map map = arranged(call, input);
  if (channels_last || pools_planes()) {
    pool(kernel_dtype(scalar), call, map.view, {output.data_ptr(), channels_last});
    return output;
  }
  const Tensor rows = empty_image(size, true, scalar, input);
  pool(kernel_dtype(scalar), call, map.view, {rows.data_ptr(), true});
  torch::stable::copy_(output, rows);
  return output;
}

std::tuple<Tensor, Tensor> gradients(const Arguments& all, const Tensor& grad_output, const Tensor& input,
                                     const std::optional<Tensor>& offset, bool channels_last, bool need_input,
                                     bool need_offset, bool deterministic) {
  const RoiCall& call = all.call;
  const ScalarType scalar = input.scalar_type();
  require(grad_output.dim() == 4 && grad_output.size(0) == call.num_rois &&
          grad_output.size(1) == all.channels() && grad_output.size(2) == call.pooled_h &&
          grad_output.size(3) == call.pooled_w && grad_output.scalar_type() == scalar);
  need_offset = need_offset && offset.has_value();

  // What is not needed has no elements; each has its own, since results must not alias.
  Tensor grad_input = empty({0}, scalar, input), grad_offset = empty({0}, scalar, input);
  Tensor sums, moved;  // of the input and of the offset, in the accumulation type
  RoiGradients targets;
  if (need_input) {
    const std::vector<int64_t> size{input.size(0), input.size(1), input.size(2), input.size(3)};
    grad_input = empty_image(size, channels_last, scalar, input);
    if (stays_as_it_is(call, grad_input)) {
      sums = scalar == all.exact ? grad_input : empty_image(size, channels_last, all.exact, input);
      targets.input = strided_view(call, sums);
    } else {
      const int64_t groups = call.groups();
      sums = empty({size[0], size[2], size[3], groups, size[1] / groups}, all.exact, input);
      targets.input = grouped_view(call, sums.data_ptr(), size[1]);
    }
    torch::stable::zero_(sums);
  }
  if (need_offset) {
    moved = empty({offset->size(0), offset->size(1), offset->size(2), offset->size(3)}, all.exact, input);
    targets.offset = moved.data_ptr();
  }
  if (call.num_rois > 0 && (need_input || need_offset)) {
    const bool planes = pools_planes() && !is_nhwc(grad_output) && is_nchw(grad_output);
    const Tensor grads =
        planes ? grad_output : torch::stable::contiguous(grad_output, MemoryFormat::ChannelsLast);
    const Map map = need_offset ? arranged(call, input) : Map{input, {}};
    pool_backward(kernel_dtype(scalar), call, map.view, {grads.data_ptr(), !planes}, targets, deterministic,
                  input);
  }
  if (need_input && sums.data_ptr() != grad_input.data_ptr()) {
    if (sums.dim() == 5)
      sums = torch::stable::reshape(permuted(sums, {0, 4, 3, 1, 2}),
                                    {input.size(0), input.size(1), input.size(2), input.size(3)});
    torch::stable::copy_(grad_input, sums);
  }
  if (need_offset) grad_offset = torch::stable::to(moved, offset->scalar_type());
  return {grad_input, grad_offset};
}

Arguments aligned(const Tensor& input, const Tensor& rois, const std::optional<Tensor>& offset,
                  const std::vector<int64_t>& output_size, double spatial_scale, int64_t sampling_ratio,
                  double gamma) {
  RoiCall call{};
  call.spatial_scale = spatial_scale, call.reach = gamma;
  require(input.dim() == 4);
  return arguments(call, input, rois, offset, input.size(1), output_size, output_size, 1, sampling_ratio);
}

Arguments position_sensitive(const Tensor& input, const Tensor& rois, const std::optional<Tensor>& offset,
                             int64_t output_dim, int64_t group_size, const std::vector<int64_t>& output_size,
                             const std::vector<int64_t>& part_size, int64_t samples_per_part,
                             double trans_std, double spatial_scale) {
  RoiCall call{};
  call.position_sensitive = true, call.spatial_scale = spatial_scale, call.reach = trans_std;
  return arguments(call, input, rois, offset, output_dim, output_size, part_size, group_size,
                   samples_per_part);
}

}  // namespace

Tensor deform_roi_pool(const Tensor& input, const Tensor& rois, const std::optional<Tensor>& offset,
                       const std::vector<int64_t>& output_size, double spatial_scale, int64_t sampling_ratio,
                       double gamma, bool channels_last) {
  const CurrentDevice device(input);
  return pooled(aligned(input, rois, offset, output_size, spatial_scale, sampling_ratio, gamma), input,
                channels_last);
}

std::tuple<Tensor, Tensor> deform_roi_pool_backward(const Tensor& grad_output, const Tensor& input,
                                                    const Tensor& rois, const std::optional<Tensor>& offset,
                                                    const std::vector<int64_t>& output_size,
                                                    double spatial_scale, int64_t sampling_ratio,
                                                    double gamma, bool channels_last, bool need_input,
                                                    bool need_offset, bool deterministic) {
  const CurrentDevice device(input);
  return gradients(aligned(input, rois, offset, output_size, spatial_scale, sampling_ratio, gamma),
                   grad_output, input, offset, channels_last, need_input, need_offset, deterministic);
}

Tensor deform_psroi_pool(const Tensor& input, const Tensor& rois, const std::optional<Tensor>& offset,
                         int64_t output_dim, int64_t group_size, const std::vector<int64_t>& output_size,
                         const std::vector<int64_t>& part_size, int64_t samples_per_part, double trans_std,
                         double spatial_scale, bool channels_last) {
  const CurrentDevice device(input);
  return pooled(position_sensitive(input, rois, offset, output_dim, group_size, output_size, part_size,
                                   samples_per_part, trans_std, spatial_scale),
                input, channels_last);
}

std::tuple<Tensor, Tensor> deform_psroi_pool_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& rois, const std::optional<Tensor>& offset,
    int64_t output_dim, int64_t group_size, const std::vector<int64_t>& output_size,
    const std::vector<int64_t>& part_size, int64_t samples_per_part, double trans_std, double spatial_scale,
    bool channels_last, bool need_input, bool need_offset, bool deterministic) {
  const CurrentDevice device(input);
  return gradients(position_sensitive(input, rois, offset, output_dim, group_size, output_size, part_size,
                                      samples_per_part, trans_std, spatial_scale),
                   grad_output, input, offset, channels_last, need_input, need_offset, deterministic);
}

}  // namespace segdcn
