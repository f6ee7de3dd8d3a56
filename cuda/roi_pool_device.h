// The device's side of roi_pool.h by kernels (roi_pool_kernels.h): choice of the vector width and of the
// lanes, and launches. Included by the one file per device that defines `launch` and `launch_summed`.
#pragma once

#include <initializer_list>

#include "for_type.h"
#include "roi_pool_kernels.h"
#include "tensors.h"

namespace segdcn {
namespace {

// Calls body(integral_constant<N>) for the widest vector, of 16 bytes, 4 bytes or one element, that divides
// the channels of a bin and to which all memory is aligned.
template <typename T, typename Body>
void for_width_of(const RoiCall& call, std::initializer_list<const void*> memory, const Body& body) {
  const auto fits = [&](int64_t width) {
    bool aligned = call.run % width == 0;
    for (const void* data : memory) aligned &= reinterpret_cast<uintptr_t>(data) % (width * sizeof(T)) == 0;
    return aligned;
  };
  constexpr int widest = 16 / sizeof(T), middle = sizeof(T) < 4 ? 4 / sizeof(T) : 1;
  if (fits(widest)) return body(std::integral_constant<int, widest>{});
  if (fits(middle)) return body(std::integral_constant<int, middle>{});
  body(std::integral_constant<int, 1>{});
}

// Threads that share a bin: a power of two, at most a warp, and none without a vector.
int lanes_of(const RoiCall& call, int width) {
  int lanes = 1;
  while (lanes < 32 && 2 * lanes <= call.run / width) lanes *= 2;
  return lanes;
}

// Memory of the call's device, and stream.
Tensor scratch(int64_t bytes, const Tensor& like) { return empty({bytes}, ScalarType::Byte, like); }

template <typename T>
void backward(const RoiCall& call, const MapView& input, const T* grad_output, const RoiGradients& to,
              bool deterministic, const Tensor& like) {
  using real = typename kernels::Accumulation<T>::type;
  const int64_t bins = call.num_rois * call.bins() * call.classes;
  const bool moves = to.offset != nullptr, collects = to.input.data != nullptr && deterministic;
  const Tensor memory = scratch(moves ? bins * 2 * sizeof(real) : 0, like);
  real* moved = moves ? static_cast<real*>(memory.data_ptr()) : nullptr;
  const MapView scattered = deterministic ? MapView{} : to.input;
  if (moves || scattered.data != nullptr) {
    for_width_of<T>(call, {input.data, grad_output, scattered.data}, [&](auto width) {
      const kernels::PoolBackward<T, width> kernel{call, input, scattered, grad_output, moved};
      launch_summed("pool_backward", bins, lanes_of(call, width), kernel);
    });
  }
  if (moves) {
    const int64_t parts = call.num_rois * call.classes * call.part_h * call.part_w;
    launch("sum_parts", parts, 1, kernels::SumParts<real>{call, moved, static_cast<real*>(to.offset)});
  }
  if (collects) {
    const Tensor bounds = scratch(call.num_rois * sizeof(kernels::RoiBounds), like);
    auto* boxes = static_cast<kernels::RoiBounds*>(bounds.data_ptr());
    launch("find_bounds", call.num_rois, 1, kernels::FindBounds<real>{call, boxes});
    const int64_t places = call.batch * call.height * call.width * call.groups() * call.classes;
    for_width_of<T>(call, {grad_output}, [&](auto width) {
      const kernels::CollectGradient<T, width> kernel{call, to.input, boxes, grad_output};
      launch("collect_gradient", places, lanes_of(call, width), kernel);
    });
  }
}

}  // namespace

bool pools_strided(const RoiCall&, int64_t) { return false; }
bool pools_planes() { return false; }

void pool(DType dtype, const RoiCall& call, const MapView& input, const PooledView& output) {
  for_type(dtype, [&](auto element) {
    using T = decltype(element);
    for_width_of<T>(call, {input.data, output.data}, [&](auto width) {
      const kernels::Pool<T, width> kernel{call, input, static_cast<T*>(output.data)};
      launch("pool", call.num_rois * call.bins() * call.classes, lanes_of(call, width), kernel);
    });
  });
}

void pool_backward(DType dtype, const RoiCall& call, const MapView& input, const PooledView& grad_output,
                   const RoiGradients& gradients, bool deterministic, const Tensor& like) {
  for_type(dtype, [&](auto element) {
    using T = decltype(element);
    backward(call, input, static_cast<const T*>(grad_output.data), gradients, deterministic, like);
  });
}

}  // namespace segdcn
