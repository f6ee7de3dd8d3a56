// What each GPU thread does, as host and device functions of its indices: deform_conv_cuda.cu launches
// them, and a test build runs the same functions over emulated indices (emulate.h).
//
// A read is one tap of one output pixel for one offset group. `lanes` neighbouring threads share a read:
// each works out the position and then takes every lanes-th vector of the channels.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "deform_conv.h"
#include "sampling.h"

namespace segdcn {
namespace kernels {

// N elements that are loaded and stored at once.
template <typename T, int N>
struct alignas(sizeof(T) * N) Vector {
  T element[N];
};

template <int N, typename T>
SEGDCN_HD Vector<T, N> load(const T* from) {
  return *reinterpret_cast<const Vector<T, N>*>(from);
}

template <int N, typename T, typename real>
SEGDCN_HD void store(T* to, const real (&values)[N]) {
  Vector<T, N> rounded;
  for (int j = 0; j < N; ++j) rounded.element[j] = static_cast<T>(values[j]);
  *reinterpret_cast<Vector<T, N>*>(to) = rounded;
}

// The type of positions, weights and sums.
template <typename T>
struct Accumulation {
  using type = float;
};
template <>
struct Accumulation<double> {
  using type = double;
};

// Adds to memory that other threads add to as well.
template <int N>
SEGDCN_HD void add_shared(double* to, const double (&values)[N]) {
#if defined(__CUDA_ARCH__)
  for (int j = 0; j < N; ++j) atomicAdd(to + j, values[j]);
#else
  for (int j = 0; j < N; ++j) to[j] += values[j];
#endif
}
template <int N>
SEGDCN_HD void add_shared(float* to, const float (&values)[N]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (N % 4 == 0) {
    for (int j = 0; j < N; j += 4)
      atomicAdd(reinterpret_cast<float4*>(to + j),
                make_float4(values[j], values[j + 1], values[j + 2], values[j + 3]));
  } else if constexpr (N == 2) {
    atomicAdd(reinterpret_cast<float2*>(to), make_float2(values[0], values[1]));
  } else {
    atomicAdd(to, values[0]);
  }
#elif defined(__CUDA_ARCH__)
  for (int j = 0; j < N; ++j) atomicAdd(to + j, values[j]);
#else
  for (int j = 0; j < N; ++j) to[j] += values[j];
#endif
}

// One number for each dimension of a map; of one plane in two dimensions.
struct Each {
  int32_t plane, row, col;
};

// A chunk of output pixels and where they read, in the integers that a GPU divides quickly.
struct Chunk {
  Each size, stride, padding, dilation;  // of the map and of the convolution
  int32_t channels, taps, kernel_h, kernel_w;
  uint32_t out_height, out_width, out_pixels, fields;  // fields: offset groups * taps
  int32_t channels_per_group, channels_per_field;      // of a weight group, of an offset group
  uint32_t num_pixels;                                 // of this chunk
  int64_t first_image;                                 // in which the chunk begins,
  uint32_t first_pixel;                                // and at which of its pixels
  FieldView offset, mask;
};

// Which read a number stands for: taps of a pixel lie side by side, then offset groups, then pixels.
template <int dims>
struct ReadIndex {
  int64_t image;
  int32_t pixel, plane, row, col, offset_group, tap;

  SEGDCN_HD ReadIndex(const Chunk& chunk, uint32_t read) {
    const uint32_t p = read / chunk.fields, field = read - p * chunk.fields;
    const uint32_t within = chunk.first_pixel + p, images = within / chunk.out_pixels;
    const uint32_t left = within - images * chunk.out_pixels, line = left / chunk.out_width;
    const uint32_t planes = dims == 3 ? line / chunk.out_height : 0;
    pixel = static_cast<int32_t>(p);
    image = chunk.first_image + images;
    plane = static_cast<int32_t>(planes);
    row = static_cast<int32_t>(line - planes * chunk.out_height);
    col = static_cast<int32_t>(left - line * chunk.out_width);
    offset_group = static_cast<int32_t>(field) / chunk.taps;
    tap = static_cast<int32_t>(field) - offset_group * chunk.taps;
  }

  // The element of a field's channel at this read's output pixel.
  SEGDCN_HD int64_t element(const FieldView& field, int64_t channel) const {
    const int64_t in_plane =
        image * field.stride[0] + channel * field.stride[1] + row * field.stride[3] + col * field.stride[4];
    return dims == 3 ? in_plane + plane * field.stride[2] : in_plane;
  }
  SEGDCN_HD int64_t field(const Chunk& chunk) const { return int64_t{offset_group} * chunk.taps + tap; }
};

template <typename real, int dims>
SEGDCN_HD LinearRead<real, dims> read_at(const Chunk& chunk, const ReadIndex<dims>& index) {
  const int64_t field = index.field(chunk);
  const real* offset = static_cast<const real*>(chunk.offset.data);
  const int32_t line = index.tap / chunk.kernel_w, tap_col = index.tap - line * chunk.kernel_w;
  const int32_t tap_plane = dims == 3 ? line / chunk.kernel_h : 0,
                tap_row = line - tap_plane * chunk.kernel_h;
  const Each &stride = chunk.stride, &padding = chunk.padding, &dilation = chunk.dilation;
  const int64_t grid[] = {grid_position(index.plane, tap_plane, stride.plane, padding.plane, dilation.plane),
                          grid_position(index.row, tap_row, stride.row, padding.row, dilation.row),
                          grid_position(index.col, tap_col, stride.col, padding.col, dilation.col)};
  real position[dims];
  SEGDCN_UNROLL
  for (int d = 0; d < dims; ++d)
    position[d] =
        static_cast<real>(grid[3 - dims + d]) + offset[index.element(chunk.offset, dims * field + d)];
  const int32_t size[] = {chunk.size.plane, chunk.size.row, chunk.size.col};
  return linear_read(position, size);
}

template <typename real, int dims>
SEGDCN_HD real modulation(const Chunk& chunk, const ReadIndex<dims>& index) {
  if (chunk.mask.data == nullptr) return real(1);
  return static_cast<const real*>(chunk.mask.data)[index.element(chunk.mask, index.field(chunk))];
}

// The first pixel of the image that is read, counted in input pixels.
template <int dims>
SEGDCN_HD int64_t image_start(const Chunk& chunk, const ReadIndex<dims>& index) {
  return index.image * (int64_t{chunk.size.plane} * chunk.size.row * chunk.size.col);
}

// The element of `columns`, (groups, P, K, C/groups), that belongs to a channel of the map.
template <int dims>
SEGDCN_HD int64_t column_element(const Chunk& chunk, const ReadIndex<dims>& index, int32_t channel) {
  const int32_t per_group = chunk.channels_per_group;
  if (per_group == chunk.channels)
    return (int64_t{index.pixel} * chunk.taps + index.tap) * per_group + channel;
  const int32_t group = channel / per_group;
  return ((int64_t{group} * chunk.num_pixels + index.pixel) * chunk.taps + index.tap) * per_group + channel -
         group * per_group;
}

// ---------------------------------------------------------------- forward

// columns = mask * read(input at the moved position)
template <typename T, int N, int dims>
struct Gather {
  using real = typename Accumulation<T>::type;
  static constexpr int corners = 1 << dims;
  Chunk chunk;
  const T* input;
  T* columns;

  SEGDCN_HD void operator()(int64_t read, int lane, int lanes) const {
    const ReadIndex<dims> index(chunk, static_cast<uint32_t>(read));
    const LinearRead<real, dims> at = read_at<real>(chunk, index);
    const real mask = modulation<real>(chunk, index);
    const int64_t image = image_start(chunk, index);
    const int32_t begin = index.offset_group * chunk.channels_per_field;
    for (int32_t c = begin + lane * N; c < begin + chunk.channels_per_field; c += lanes * N) {
      real sum[N] = {};
      SEGDCN_UNROLL
      for (int i = 0; i < corners; ++i) {
        if (at.pixel[i] < 0) continue;
        const Vector<T, N> x = load<N>(input + (image + at.pixel[i]) * chunk.channels + c);
        SEGDCN_UNROLL
        for (int j = 0; j < N; ++j) sum[j] += at.weight[i] * static_cast<real>(x.element[j]);
      }
      SEGDCN_UNROLL
      for (int j = 0; j < N; ++j) sum[j] *= mask;
      store(columns + column_element(chunk, index, c), sum);
    }
  }
};

// ---------------------------------------------------------------- backward

// The dot products of a read's column gradient with its corners.
template <typename real, int corners>
struct Dots {
  real corner[corners] = {};

  SEGDCN_HD void add(const Dots& other) {
    SEGDCN_UNROLL
    for (int i = 0; i < corners; ++i) corner[i] += other.corner[i];
  }
  // What another lane holds; `exchange` fetches one number of it.
  template <typename Exchange>
  SEGDCN_HD Dots exchanged(const Exchange& exchange) const {
    Dots other;
    SEGDCN_UNROLL
    for (int i = 0; i < corners; ++i) other.corner[i] = exchange(corner[i]);
    return other;
  }
};

// From the gradient of columns: the offset's and the mask's, and, added with atomics, the input's.
// Every lane gives its share of the dot products; `finish` takes their sum.
template <typename T, int N, int dims>
struct Scatter {
  using real = typename Accumulation<T>::type;
  static constexpr int corners = 1 << dims;
  using Share = Dots<real, corners>;
  Chunk chunk;
  const T* input;
  const T* grad_columns;
  real* grad_input;       // null: not asked for
  FieldView grad_offset;  // null: not asked for, nor grad_mask
  FieldView grad_mask;

  SEGDCN_HD Share operator()(int64_t read, int lane, int lanes) const {
    const ReadIndex<dims> index(chunk, static_cast<uint32_t>(read));
    const LinearRead<real, dims> at = read_at<real>(chunk, index);
    const real mask = modulation<real>(chunk, index);
    const int64_t image = image_start(chunk, index);
    const int32_t begin = index.offset_group * chunk.channels_per_field;
    Share share;
    for (int32_t c = begin + lane * N; c < begin + chunk.channels_per_field; c += lanes * N) {
      const Vector<T, N> grad = load<N>(grad_columns + column_element(chunk, index, c));
      SEGDCN_UNROLL
      for (int i = 0; i < corners; ++i) {
        if (at.pixel[i] < 0) continue;
        const int64_t element = (image + at.pixel[i]) * chunk.channels + c;
        if (grad_offset.data != nullptr) {
          const Vector<T, N> x = load<N>(input + element);
          SEGDCN_UNROLL
          for (int j = 0; j < N; ++j)
            share.corner[i] += static_cast<real>(grad.element[j]) * static_cast<real>(x.element[j]);
        }
        if (grad_input != nullptr) {
          const real weight = at.weight[i] * mask;
          real values[N];
          SEGDCN_UNROLL
          for (int j = 0; j < N; ++j) values[j] = weight * static_cast<real>(grad.element[j]);
          add_shared(grad_input + element, values);
        }
      }
    }
    return share;
  }

  SEGDCN_HD void finish(int64_t read, const Share& sum) const {
    if (grad_offset.data == nullptr) return;
    const ReadIndex<dims> index(chunk, static_cast<uint32_t>(read));
    const LinearRead<real, dims> at = read_at<real>(chunk, index);
    const real mask = modulation<real>(chunk, index);
    const ReadGradient<real, dims> gradient = read_gradient(at.weight, at.fraction, sum.corner);
    const int64_t field = index.field(chunk);
    real* offset = static_cast<real*>(grad_offset.data);
    SEGDCN_UNROLL
    for (int d = 0; d < dims; ++d)
      offset[index.element(grad_offset, dims * field + d)] = mask * gradient.position[d];
    if (grad_mask.data != nullptr)
      static_cast<real*>(grad_mask.data)[index.element(grad_mask, field)] = gradient.value;
  }
};

// ---------------------------------------------------------------- backward, in a fixed order

// For each corner of each read: the element of the map (offset group and pixel) that it touches, to be
// sorted by, and its weight. Corners outside the map come last.
template <typename real, int dims>
struct CornerKeys {
  static constexpr int corners = 1 << dims;
  Chunk chunk;
  int64_t num_input_pixels;  // of the group of images
  int64_t* keys;
  real* weights;

  SEGDCN_HD void operator()(int64_t read, int, int) const {
    const ReadIndex<dims> index(chunk, static_cast<uint32_t>(read));
    const LinearRead<real, dims> at = read_at<real>(chunk, index);
    const real mask = modulation<real>(chunk, index);
    const int64_t outside = static_cast<int64_t>(chunk.fields / chunk.taps) * num_input_pixels;
    for (int i = 0; i < corners; ++i) {
      const int64_t key = index.offset_group * num_input_pixels + image_start(chunk, index) + at.pixel[i];
      keys[corners * read + i] = at.pixel[i] < 0 ? outside : key;
      weights[corners * read + i] = at.weight[i] * mask;
    }
  }
};

// grad_input at one element of the map += all that was sorted to it, in the order of the reads. Of the
// corners with one key, the lanes of the first do the work.
template <typename T, int N, int dims>
struct AddSorted {
  using real = typename Accumulation<T>::type;
  static constexpr int corners = 1 << dims;
  Chunk chunk;
  int64_t num_input_pixels, num_corners;
  const int64_t* keys;   // sorted
  const int64_t* order;  // order[i]: which corner (corners * read + i) came i-th
  const real* weights;   // by corner, unsorted
  const T* grad_columns;
  real* grad_input;

  SEGDCN_HD void operator()(int64_t first, int lane, int lanes) const {
    const int64_t key = keys[first];
    if (first > 0 && keys[first - 1] == key) return;
    const int64_t offset_group = key / num_input_pixels, pixel = key - offset_group * num_input_pixels;
    if (offset_group * chunk.taps >= chunk.fields) return;  // outside the map
    const int32_t begin = static_cast<int32_t>(offset_group) * chunk.channels_per_field;
    for (int32_t c = begin + lane * N; c < begin + chunk.channels_per_field; c += lanes * N) {
      real sum[N] = {};
      for (int64_t i = first; i < num_corners && keys[i] == key; ++i) {
        const int64_t corner = order[i];
        const ReadIndex<dims> index(chunk, static_cast<uint32_t>(corner / corners));
        const Vector<T, N> grad = load<N>(grad_columns + column_element(chunk, index, c));
        SEGDCN_UNROLL
        for (int j = 0; j < N; ++j) sum[j] += weights[corner] * static_cast<real>(grad.element[j]);
      }
      real* target = grad_input + pixel * chunk.channels + c;
      SEGDCN_UNROLL
      for (int j = 0; j < N; ++j) target[j] += sum[j];
    }
  }
};

// ---------------------------------------------------------------- bias

template <typename T>
struct AddBias {
  using real = typename Accumulation<T>::type;
  int64_t num_columns;
  const T* bias;
  T* rows;

  SEGDCN_HD void operator()(int64_t element, int, int) const {
    rows[element] =
        static_cast<T>(static_cast<real>(rows[element]) + static_cast<real>(bias[element % num_columns]));
  }
};

}  // namespace kernels
}  // namespace segdcn
