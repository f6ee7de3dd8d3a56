// The device's side of deform_conv.h by kernels (deform_conv_kernels.h): choice of the vector width and of
// the lanes per read, and launches. Included by the one file per device that defines `launch` and
// `launch_summed`.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <type_traits>

#include "deform_conv_kernels.h"
#include "for_type.h"
#include "tensors.h"

namespace segdcn {
namespace {

// Calls body(integral_constant<dims>) for the dimensions of the maps.
template <typename Body>
void for_dims(const ConvGeometry& g, const Body& body) {
  if (g.dims == 2) return body(std::integral_constant<int, 2>{});
  body(std::integral_constant<int, 3>{});
}

// Calls body(integral_constant<N>) for the widest vector, of 16 bytes, 4 bytes or one element, that divides
// the channels of all groups and to which all memory is aligned.
template <typename T, typename Body>
void for_width(const ConvGeometry& g, std::initializer_list<const void*> memory, const Body& body) {
  const int64_t run = std::gcd(g.channels / g.groups, g.channels / g.offset_groups);
  const auto fits = [&](int64_t width) {
    return run % width == 0 && std::all_of(memory.begin(), memory.end(), [&](const void* data) {
             return reinterpret_cast<uintptr_t>(data) % (width * sizeof(T)) == 0;
           });
  };
  constexpr int widest = 16 / sizeof(T), middle = sizeof(T) < 4 ? 4 / sizeof(T) : 1;
  if (fits(widest)) return body(std::integral_constant<int, widest>{});
  if (fits(middle)) return body(std::integral_constant<int, middle>{});
  body(std::integral_constant<int, 1>{});
}

// Threads that share one read: a power of two, at most `limit`, and none without a vector.
int lanes_for(const ConvGeometry& g, int width, int limit) {
  const int64_t vectors = g.channels / g.offset_groups / width;
  int lanes = 1;
  while (lanes < limit && 2 * lanes <= vectors) lanes *= 2;
  return lanes;
}

kernels::Chunk chunk_of(const ConvGeometry& g, PixelRange pixels, const Source& source) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  const int64_t fields = g.offset_groups * g.taps();
  for (int64_t size :
       {g.out_pixels(), pixels.size() * fields, g.channels, g.stride_d * g.out_depth,
        g.stride_h * g.out_height, g.stride_w * g.out_width, g.padding_d, g.padding_h, g.padding_w,
        g.dilation_d * (g.kernel_d - 1), g.dilation_h * (g.kernel_h - 1), g.dilation_w * (g.kernel_w - 1)})
    STD_TORCH_CHECK(size <= most, "segdcn: a size of this convolution is beyond ", most);
  const auto narrow = [](int64_t value) { return static_cast<int32_t>(value); };
  const auto each = [&](int64_t plane, int64_t row, int64_t col) {
    return kernels::Each{narrow(plane), narrow(row), narrow(col)};
  };
  return {each(g.depth, g.height, g.width),
          each(g.stride_d, g.stride_h, g.stride_w),
          each(g.padding_d, g.padding_h, g.padding_w),
          each(g.dilation_d, g.dilation_h, g.dilation_w),
          narrow(g.channels),
          narrow(g.taps()),
          narrow(g.kernel_h),
          narrow(g.kernel_w),
          static_cast<uint32_t>(g.out_height),
          static_cast<uint32_t>(g.out_width),
          static_cast<uint32_t>(g.out_pixels()),
          static_cast<uint32_t>(fields),
          narrow(g.channels / g.groups),
          narrow(g.channels / g.offset_groups),
          static_cast<uint32_t>(pixels.size()),
          pixels.begin / g.out_pixels(),
          static_cast<uint32_t>(pixels.begin % g.out_pixels()),
          source.offset,
          source.mask};
}

// A few lanes per read in forward, where each repeats the arithmetic of the position, and a warp in
// backward, where the corners of a read are reduced and added to.
constexpr int kGatherLanes = 8, kScatterLanes = 32;

}  // namespace

void gather(DType dtype, const ConvGeometry& geometry, PixelRange pixels, const Source& source,
            void* columns) {
  const kernels::Chunk chunk = chunk_of(geometry, pixels, source);
  for_type(dtype, [&](auto element) {
    using T = decltype(element);
    for_width<T>(geometry, {source.input, columns}, [&](auto width) {
      for_dims(geometry, [&](auto dims) {
        const kernels::Gather<T, width, dims> kernel{chunk, static_cast<const T*>(source.input),
                                                     static_cast<T*>(columns)};
        launch("gather", pixels.size() * chunk.fields, lanes_for(geometry, width, kGatherLanes), kernel);
      });
    });
  });
}

void scatter(DType dtype, const ConvGeometry& geometry, PixelRange pixels, const Source& source,
             const void* grad_columns, void* grad_input, const FieldView& grad_offset,
             const FieldView& grad_mask) {
  const kernels::Chunk chunk = chunk_of(geometry, pixels, source);
  for_type(dtype, [&](auto element) {
    using T = decltype(element);
    using real = typename kernels::Accumulation<T>::type;
    for_width<T>(geometry, {source.input, grad_columns, grad_input}, [&](auto width) {
      for_dims(geometry, [&](auto dims) {
        const kernels::Scatter<T, width, dims> kernel{chunk,
                                                      static_cast<const T*>(source.input),
                                                      static_cast<const T*>(grad_columns),
                                                      static_cast<real*>(grad_input),
                                                      grad_offset,
                                                      grad_mask};
        launch_summed("scatter", pixels.size() * chunk.fields, lanes_for(geometry, width, kScatterLanes),
                      kernel);
      });
    });
  });
}

void corner_keys(DType dtype, const ConvGeometry& geometry, PixelRange pixels, const Source& source,
                 int64_t num_images, int64_t* keys, void* weights) {
  const kernels::Chunk chunk = chunk_of(geometry, pixels, source);
  const int64_t num_input_pixels = num_images * geometry.pixels();
  const int64_t reads = pixels.size() * chunk.fields;
  for_dims(geometry, [&](auto dims) {
    if (dtype == DType::kDouble)
      launch("corner_keys", reads, 1,
             kernels::CornerKeys<double, dims>{chunk, num_input_pixels, keys, static_cast<double*>(weights)});
    else
      launch("corner_keys", reads, 1,
             kernels::CornerKeys<float, dims>{chunk, num_input_pixels, keys, static_cast<float*>(weights)});
  });
}

void add_sorted(DType dtype, const ConvGeometry& geometry, PixelRange pixels, const Source& source,
                int64_t num_images, const SortedCorners& corners, const void* grad_columns,
                void* grad_input) {
  const kernels::Chunk chunk = chunk_of(geometry, pixels, source);
  const int64_t num_input_pixels = num_images * geometry.pixels();
  const int64_t count = geometry.corners() * pixels.size() * chunk.fields;
  for_type(dtype, [&](auto element) {
    using T = decltype(element);
    using real = typename kernels::Accumulation<T>::type;
    for_width<T>(geometry, {grad_columns, grad_input}, [&](auto width) {
      for_dims(geometry, [&](auto dims) {
        const kernels::AddSorted<T, width, dims> kernel{chunk,
                                                        num_input_pixels,
                                                        count,
                                                        corners.keys,
                                                        corners.order,
                                                        static_cast<const real*>(corners.weights),
                                                        static_cast<const T*>(grad_columns),
                                                        static_cast<real*>(grad_input)};
        launch("add_sorted", count, lanes_for(geometry, width, kScatterLanes), kernel);
      });
    });
  });
}

void add_bias(DType dtype, const void* bias, int64_t num_rows, int64_t num_columns, void* rows) {
  for_type(dtype, [&](auto element) {
    using T = decltype(element);
    launch("add_bias", num_rows * num_columns, 1,
           kernels::AddBias<T>{num_columns, static_cast<const T*>(bias), static_cast<T*>(rows)});
  });
}

bool scatters_in_order() { return false; }

// There is no direct path: every dtype goes through columns.
bool computes_directly(DType) { return false; }
std::unique_ptr<DirectForward> direct_forward(DType, const ConvGeometry&, const WeightView&) {
  return nullptr;
}
std::unique_ptr<DirectBackward> direct_backward(DType, const ConvGeometry&, const WeightView&, int64_t) {
  return nullptr;
}

}  // namespace segdcn
