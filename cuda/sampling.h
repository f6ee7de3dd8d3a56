// Where a tap reads, and with which weights: the only copy of the bilinear and trilinear arithmetic.
//
// The feature map is read as if it were surrounded by zeros: a corner outside the map
// contributes nothing, so a read fades out over the last pixel and is exactly 0 from -1
// and from H (W) outwards. NaN and infinite positions count as outside.
//
//   value      = sum_i weight[i] * x[corner i]
//   d value/dy = (1-lx) * (x[2]-x[0]) + lx * (x[3]-x[1])
//   d value/dx = (1-ly) * (x[1]-x[0]) + ly * (x[3]-x[2])
//
// with corners 0 1 / 2 3 = top-left, top-right / bottom-left, bottom-right and
// (ly, lx) the fractional part of the position. At whole pixels the slope is the
// right-hand one, as in torchvision.
//
// In three dimensions the corners 4 5 / 6 7 lie in the next plane: a read is a blend of two
// bilinear ones, (1-lz) * front + lz * back, with slope back - front in z.
//
// Host and device code; no dependency but <cmath>, so that the same lines are compiled by
// g++, clang and nvcc and are tested once, on the CPU.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define SEGDCN_HD __host__ __device__ __forceinline__
#else
#define SEGDCN_HD inline __attribute__((always_inline))
#endif

#if defined(__CUDA_ARCH__)
#define SEGDCN_UNROLL _Pragma("unroll")
#else
#define SEGDCN_UNROLL
#endif

namespace segdcn {

// The reading position of tap index `tap` (row or column) at output index `out`.
SEGDCN_HD int64_t grid_position(int64_t out, int64_t tap, int64_t stride, int64_t padding, int64_t dilation) {
  return out * stride - padding + tap * dilation;
}

// `real` is the accumulation type: float, or double for float64 tensors. `dims` is 2 or 3.
template <typename real, int dims>
struct LinearRead {
  int32_t pixel[1 << dims];  // (plane * height + row) * width + col of each corner; -1 outside the map
  real weight[1 << dims];    // 0 where the corner lies outside
  real fraction[dims];       // fractional part of the position: (lz,) ly, lx
};

template <typename real>
SEGDCN_HD LinearRead<real, 2> bilinear_read(real y, real x, int32_t height, int32_t width) {
  // Written so that NaN fails it. -1 itself is let through: its value is 0 but its
  // one-sided slope is not (torchvision agrees, mmcv gives 0 there). Masks of bits and no
  // branches: g++ vectorises loops over this form and not over the plainer one.
  const bool inside = (y >= real(-1)) & (y < real(height)) & (x >= real(-1)) & (x < real(width));
  const int32_t outside = !inside;
  y = outside ? real(0) : y;
  x = outside ? real(0) : x;
  const real top = std::floor(y), left = std::floor(x);
  const int32_t row = static_cast<int32_t>(top), col = static_cast<int32_t>(left);
  const real ly = y - top, lx = x - left;
  const real hy = real(1) - ly, hx = real(1) - lx;
  // All bits where a row or column of corners lies outside the map, none where it does not.
  const int32_t no_top = -static_cast<int32_t>(row < 0) | -outside;
  const int32_t no_bottom = -static_cast<int32_t>(row + 1 >= height) | -outside;
  const int32_t no_left = -static_cast<int32_t>(col < 0), no_right = -static_cast<int32_t>(col + 1 >= width);
  const real top_part = no_top ? real(0) : hy, bottom_part = no_bottom ? real(0) : ly;
  const real left_part = no_left ? real(0) : hx, right_part = no_right ? real(0) : lx;
  const int32_t corner = row * width + col;

  LinearRead<real, 2> read;
  read.pixel[0] = corner | no_top | no_left;
  read.pixel[1] = (corner + 1) | no_top | no_right;
  read.pixel[2] = (corner + width) | no_bottom | no_left;
  read.pixel[3] = (corner + width + 1) | no_bottom | no_right;
  read.weight[0] = top_part * left_part;
  read.weight[1] = top_part * right_part;
  read.weight[2] = bottom_part * left_part;
  read.weight[3] = bottom_part * right_part;
  read.fraction[0] = ly;
  read.fraction[1] = lx;
  return read;
}

template <typename real>
SEGDCN_HD LinearRead<real, 3> trilinear_read(real z, real y, real x, int32_t depth, int32_t height,
                                             int32_t width) {
  const LinearRead<real, 2> flat = bilinear_read(y, x, height, width);
  const int32_t outside = !((z >= real(-1)) & (z < real(depth)));  // also NaN
  z = outside ? real(0) : z;
  const real front = std::floor(z);
  const int32_t plane = static_cast<int32_t>(front);
  const real lz = z - front;
  const int32_t no_front = -static_cast<int32_t>(plane < 0) | -outside;
  const int32_t no_back = -static_cast<int32_t>(plane + 1 >= depth) | -outside;
  const real front_part = no_front ? real(0) : real(1) - lz, back_part = no_back ? real(0) : lz;
  const int32_t start = plane * height * width, next = start + height * width;

  LinearRead<real, 3> read;
  SEGDCN_UNROLL
  for (int i = 0; i < 4; ++i) {
    const int32_t no_pixel = flat.pixel[i] >> 31;
    read.pixel[i] = (start + flat.pixel[i]) | no_front | no_pixel;
    read.pixel[4 + i] = (next + flat.pixel[i]) | no_back | no_pixel;
    read.weight[i] = front_part * flat.weight[i];
    read.weight[4 + i] = back_part * flat.weight[i];
  }
  read.fraction[0] = lz;
  read.fraction[1] = flat.fraction[0];
  read.fraction[2] = flat.fraction[1];
  return read;
}

// The read at a position (z,) y, x of a map of this size.
template <typename real>
SEGDCN_HD LinearRead<real, 2> linear_read(const real (&position)[2], const int32_t (&size)[3]) {
  return bilinear_read(position[0], position[1], size[1], size[2]);
}
template <typename real>
SEGDCN_HD LinearRead<real, 3> linear_read(const real (&position)[3], const int32_t (&size)[3]) {
  return trilinear_read(position[0], position[1], position[2], size[0], size[1], size[2]);
}

// The derivatives of one read, from dot[i] = sum over channels of grad_column * x[corner i].
template <typename real, int dims>
struct ReadGradient {
  real position[dims];  // with respect to the position, (z,) y, x, before the mask is applied
  real value;           // with respect to the mask
};

template <typename real, int dims, int corners>
SEGDCN_HD ReadGradient<real, dims> read_gradient(const real (&weight)[corners], const real (&fraction)[dims],
                                                 const real (&dot)[corners]) {
  static_assert(corners == 1 << dims, "a corner on each side in each dimension");
  const real ly = fraction[dims - 2], lx = fraction[dims - 1];
  const real hy = real(1) - ly, hx = real(1) - lx;
  ReadGradient<real, dims> gradient;
  real flat[4] = {dot[0], dot[1], dot[2], dot[3]};  // within the plane of the position
  if constexpr (dims == 3) {
    const real lz = fraction[0], hz = real(1) - lz;
    gradient.position[0] = hy * (hx * (dot[4] - dot[0]) + lx * (dot[5] - dot[1])) +
                           ly * (hx * (dot[6] - dot[2]) + lx * (dot[7] - dot[3]));
    SEGDCN_UNROLL
    for (int i = 0; i < 4; ++i) flat[i] = hz * dot[i] + lz * dot[4 + i];
  }
  gradient.position[dims - 2] = hx * (flat[2] - flat[0]) + lx * (flat[3] - flat[1]);
  gradient.position[dims - 1] = hy * (flat[1] - flat[0]) + ly * (flat[3] - flat[2]);
  gradient.value = weight[0] * dot[0];
  SEGDCN_UNROLL
  for (int i = 1; i < corners; ++i) gradient.value += weight[i] * dot[i];
  return gradient;
}

}  // namespace segdcn
