// Where a tap reads, and with which weights: the only copy of the bilinear arithmetic.
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

// `real` is the accumulation type: float, or double for float64 tensors.
template <typename real>
struct BilinearRead {
  int32_t pixel[4];  // row * width + col of each corner; -1 where it lies outside the map
  real weight[4];    // 0 where the corner lies outside
  real ly, lx;       // fractional part of the position
};

template <typename real>
SEGDCN_HD BilinearRead<real> bilinear_read(real y, real x, int32_t height, int32_t width) {
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

  BilinearRead<real> read;
  read.pixel[0] = corner | no_top | no_left;
  read.pixel[1] = (corner + 1) | no_top | no_right;
  read.pixel[2] = (corner + width) | no_bottom | no_left;
  read.pixel[3] = (corner + width + 1) | no_bottom | no_right;
  read.weight[0] = top_part * left_part;
  read.weight[1] = top_part * right_part;
  read.weight[2] = bottom_part * left_part;
  read.weight[3] = bottom_part * right_part;
  read.ly = ly;
  read.lx = lx;
  return read;
}

// The derivatives of one read, from dot[i] = sum over channels of grad_column * x[corner i].
template <typename real>
struct ReadGradient {
  real dy, dx;  // with respect to the position, before the mask is applied
  real value;   // with respect to the mask
};

template <typename real>
SEGDCN_HD ReadGradient<real> read_gradient(const real weight[4], real ly, real lx, const real dot[4]) {
  const real hy = real(1) - ly, hx = real(1) - lx;
  return {hx * (dot[2] - dot[0]) + lx * (dot[3] - dot[1]), hy * (dot[1] - dot[0]) + ly * (dot[3] - dot[2]),
          weight[0] * dot[0] + weight[1] * dot[1] + weight[2] * dot[2] + weight[3] * dot[3]};
}

}  // namespace segdcn
