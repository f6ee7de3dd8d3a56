// Where a bin of a region of interest reads, and with which weights: the only copy of this arithmetic, for
// both RoI poolings, for the CPU and for GPUs.
//
// A bin averages samples on a grid, so everything is a product of a vertical and a horizontal part: sample i
// of an axis lies at base + (i + shift) * size / parts, counts where it lies within [lowest, highest], and is
// then clamped to the map and read from two neighbouring pixels. NaN and infinite positions count as outside.
// At whole pixels the slope is the right-hand one; where a position is clamped it is 0.
#pragma once

#include <cmath>
#include <cstdint>

#include "sampling.h"

namespace segdcn {

// A RoI pooling: sizes, settings, and the tensors that say where it reads, in the accumulation type.
struct RoiCall {
  int64_t batch, num_rois;
  int64_t run;                                 // channels that a bin reads for one class
  int32_t height, width;                       // of the map
  int32_t pooled_h, pooled_w, part_h, part_w;  // bins, and offsets per class
  int32_t group_size, classes;                 // 1, 1: every bin reads all channels with one offset
  int32_t samples;                             // per bin and axis; 0: as many as the bin has pixels
  bool position_sensitive;      // whose RoIs are rounded and whose average leaves out what is outside
  double spatial_scale, reach;  // reach: pixels per offset and pixel of the RoI
  const void* rois;             // (R, 5): image, x1, y1, x2, y2
  const void* offset;           // (R, 2 * classes, part_h, part_w): x, then y; null: none

  SEGDCN_HD int32_t bins() const { return pooled_h * pooled_w; }
  SEGDCN_HD int32_t groups() const { return group_size * group_size; }
  // The group of channels that a bin reads.
  SEGDCN_HD int32_t group_of(int32_t bin) const {
    const int32_t row = bin / pooled_w, col = bin - row * pooled_w;
    return row * group_size / pooled_h * group_size + col * group_size / pooled_w;
  }
  // The offset that moves a bin.
  SEGDCN_HD int32_t part_of(int32_t bin) const {
    const int32_t row = bin / pooled_w, col = bin - row * pooled_w;
    return static_cast<int32_t>(int64_t{row} * part_h / pooled_h * part_w + int64_t{col} * part_w / pooled_w);
  }
};

// One region in pixels of the map.
template <typename real>
struct RoiBox {
  int64_t image;  // -1: there is no such image
  real top, left, height, width;
};

template <typename real>
SEGDCN_HD RoiBox<real> roi_box(const RoiCall& call, int64_t roi) {
  const real* r = static_cast<const real*>(call.rois) + 5 * roi;
  const real scale = static_cast<real>(call.spatial_scale), half = real(0.5);
  // Written so that NaN fails it.
  const bool known = r[0] >= real(0) && r[0] < static_cast<real>(call.batch);
  RoiBox<real> box;
  box.image = known ? static_cast<int64_t>(r[0]) : -1;
  if (call.position_sensitive) {
    box.left = std::round(r[1]) * scale - half;
    box.top = std::round(r[2]) * scale - half;
    box.width = (std::round(r[3]) + real(1)) * scale - half - box.left;
    box.height = (std::round(r[4]) + real(1)) * scale - half - box.top;
    box.width = box.width < real(0.1) ? real(0.1) : box.width;
    box.height = box.height < real(0.1) ? real(0.1) : box.height;
  } else {
    box.left = r[1] * scale - half;
    box.top = r[2] * scale - half;
    box.width = r[3] * scale - half - box.left;
    box.height = r[4] * scale - half - box.top;
  }
  return box;
}

// The samples of a bin along one axis.
template <typename real>
struct RoiAxis {
  real base, size, parts, shift;
  real lowest, highest;
  int32_t pixels;      // of the map along this axis
  int32_t count;       // samples,
  int32_t first, end;  // of which only these can lie inside
};

// What one sample reads along one axis.
template <typename real>
struct RoiRead {
  int32_t low, high;
  real weight_low, weight_high;
  real slope;  // of weight_high, and minus that of weight_low, in the position: 1 or 0
  bool inside;
};

template <typename real>
SEGDCN_HD RoiRead<real> roi_read(const RoiAxis<real>& axis, int32_t i) {
  const real at = axis.base + (static_cast<real>(i) + axis.shift) * axis.size / axis.parts;
  RoiRead<real> read;
  read.inside = at >= axis.lowest && at <= axis.highest;
  const real y = read.inside && at > real(0) ? at : real(0);
  const int32_t low = static_cast<int32_t>(y), last = axis.pixels - 1;
  const bool between = low < last;
  read.low = between ? low : last;
  read.high = between ? low + 1 : last;
  read.weight_high = between ? y - static_cast<real>(low) : real(0);
  read.weight_low = real(1) - read.weight_high;
  read.slope = between && at >= real(0) ? real(1) : real(0);
  return read;
}

// Samples along one axis of a bin of `size` pixels that begins at `base`.
template <typename real>
SEGDCN_HD RoiAxis<real> roi_axis(const RoiCall& call, real base, real size, int32_t pixels) {
  constexpr int32_t most = 1 << 30;
  RoiAxis<real> axis;
  axis.base = base;
  axis.pixels = pixels;
  axis.lowest = call.position_sensitive ? real(-0.5) : real(-1);
  axis.highest = static_cast<real>(pixels) - (call.position_sensitive ? real(0.5) : real(0));
  axis.count = call.samples;
  if (axis.count == 0 && size > real(0)) {
    const real grid = std::ceil(size);
    axis.count = grid < static_cast<real>(most) ? static_cast<int32_t>(grid) : most;
  }
  axis.shift = call.position_sensitive ? real(0) : real(0.5);
  axis.size = call.position_sensitive ? size / static_cast<real>(call.samples) : size;
  axis.parts = call.position_sensitive ? real(1) : static_cast<real>(axis.count);
  axis.first = axis.end = 0;
  const real step = axis.size / axis.parts;
  // False for NaN and infinity.
  if (!(std::fabs(base) < real(1e30)) || !(std::fabs(step) < real(1e30))) return axis;
  axis.end = axis.count;
  if (step > real(0) && axis.count > 4) {  // a RoI may be much larger than the map
    const real first = (axis.lowest - base) / step - real(2), end = (axis.highest - base) / step + real(3);
    if (first > real(0)) axis.first = first < axis.count ? static_cast<int32_t>(first) : axis.count;
    if (end < axis.count) axis.end = end > real(0) ? static_cast<int32_t>(end) : 0;
  }
  return axis;
}

template <typename real>
SEGDCN_HD int32_t inside_count(const RoiAxis<real>& axis) {
  int32_t inside = 0;
  for (int32_t i = axis.first; i < axis.end; ++i) inside += roi_read(axis, i).inside;
  return inside;
}

// A bin of a region, for one class.
template <typename real>
struct RoiBin {
  RoiAxis<real> y, x;
  real share;         // by which the sum of the samples is multiplied
  real per_y, per_x;  // pixels that an offset of 1 moves it
};

template <typename real>
SEGDCN_HD RoiBin<real> roi_bin(const RoiCall& call, const RoiBox<real>& box, int64_t roi, int32_t cls,
                               int32_t bin) {
  const int32_t row = bin / call.pooled_w, col = bin - row * call.pooled_w;
  const real height = box.height / static_cast<real>(call.pooled_h);
  const real width = box.width / static_cast<real>(call.pooled_w);
  RoiBin<real> at;
  // A box of infinite or no known size reads nothing, so its offset has no effect: 0, where a gradient of 0
  // times that size would be NaN.
  at.per_y = static_cast<real>(call.reach) * box.height;
  at.per_x = static_cast<real>(call.reach) * box.width;
  if (!(std::fabs(at.per_y) < real(1e30))) at.per_y = real(0);
  if (!(std::fabs(at.per_x) < real(1e30))) at.per_x = real(0);
  real top = box.top, left = box.left;
  if (call.offset != nullptr) {
    const int32_t parts = call.part_h * call.part_w;
    const real* moved =
        static_cast<const real*>(call.offset) + (roi * call.classes + cls) * 2 * parts + call.part_of(bin);
    left += at.per_x * moved[0];
    top += at.per_y * moved[parts];
  }
  at.y = roi_axis(call, top + static_cast<real>(row) * height, height, call.height);
  at.x = roi_axis(call, left + static_cast<real>(col) * width, width, call.width);
  real samples = static_cast<real>(at.y.count) * static_cast<real>(at.x.count);
  if (call.position_sensitive)
    samples = static_cast<real>(inside_count(at.y)) * static_cast<real>(inside_count(at.x));
  at.share = samples > real(1) ? real(1) / samples : real(1);
  return at;
}

}  // namespace segdcn
