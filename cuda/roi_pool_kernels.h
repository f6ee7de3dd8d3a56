// What each GPU thread does in RoI pooling, as host and device functions of its indices (see
// deform_conv_kernels.h).
//
// Maps are rearranged so that a bin's channels lie side by side. `lanes` neighbouring threads share a bin of
// one class: each works out the positions and then takes every lanes-th vector of the channels.
#pragma once

#include "deform_conv_kernels.h"  // vectors, atomics
#include "roi_pool.h"

namespace segdcn {
namespace kernels {

// Which bin a number stands for: classes lie side by side, then bins, then regions.
struct BinIndex {
  int64_t roi;
  int32_t bin, cls;

  SEGDCN_HD BinIndex(const RoiCall& call, int64_t item) {
    const int64_t bins = item / call.classes;
    cls = static_cast<int32_t>(item - bins * call.classes);
    roi = bins / call.bins();
    bin = static_cast<int32_t>(bins - roi * call.bins());
  }
};

// The first channel that a bin of a class reads, pixel 0.
SEGDCN_HD int64_t first_channel(const RoiCall& call, const MapView& map, int64_t image,
                                const BinIndex& index) {
  return image * map.image + call.group_of(index.bin) * map.group + index.cls * call.run;
}

// output (R, bins, classes, run) = means of the samples
template <typename T, int N>
struct Pool {
  using real = typename Accumulation<T>::type;
  RoiCall call;
  MapView input;
  T* output;

  SEGDCN_HD void operator()(int64_t item, int lane, int lanes) const {
    const BinIndex index(call, item);
    const RoiBox<real> box = roi_box<real>(call, index.roi);
    RoiBin<real> at = roi_bin(call, box, index.roi, index.cls, index.bin);
    if (box.image < 0) at.y.end = at.y.first = 0;
    const T* map = static_cast<const T*>(input.data) + first_channel(call, input, box.image, index);
    for (int64_t c = lane * N; c < call.run; c += lanes * N) {
      real sum[N] = {};
      for (int32_t i = at.y.first; i < at.y.end; ++i) {
        const RoiRead<real> y = roi_read(at.y, i);
        if (!y.inside) continue;
        for (int32_t j = at.x.first; j < at.x.end; ++j) {
          const RoiRead<real> x = roi_read(at.x, j);
          if (!x.inside) continue;
          SEGDCN_UNROLL
          for (int corner = 0; corner < 4; ++corner) {
            const int32_t row = corner < 2 ? y.low : y.high, col = corner % 2 == 0 ? x.low : x.high;
            const real weight = (corner < 2 ? y.weight_low : y.weight_high) *
                                (corner % 2 == 0 ? x.weight_low : x.weight_high);
            const Vector<T, N> value = load<N>(map + (int64_t{row} * call.width + col) * input.pixel + c);
            SEGDCN_UNROLL
            for (int n = 0; n < N; ++n) sum[n] += weight * static_cast<real>(value.element[n]);
          }
        }
      }
      SEGDCN_UNROLL
      for (int n = 0; n < N; ++n) sum[n] *= at.share;
      store(output + item * call.run + c, sum);
    }
  }
};

// The derivative of a bin's sum by its position.
template <typename real>
struct Slope {
  real y = 0, x = 0;

  SEGDCN_HD void add(const Slope& other) { y += other.y, x += other.x; }
  template <typename Exchange>
  SEGDCN_HD Slope exchanged(const Exchange& exchange) const {
    return {exchange(y), exchange(x)};
  }
};

// From the gradient of the result: how it moves each bin, (R, bins, classes, 2), and, added with atomics, the
// gradient of the input.
template <typename T, int N>
struct PoolBackward {
  using real = typename Accumulation<T>::type;
  using Share = Slope<real>;
  RoiCall call;
  MapView input, grad_input;
  const T* grad_output;
  real* moved;  // null: not asked for

  SEGDCN_HD Share operator()(int64_t item, int lane, int lanes) const {
    const BinIndex index(call, item);
    const RoiBox<real> box = roi_box<real>(call, index.roi);
    Share share;
    if (box.image < 0) return share;
    const RoiBin<real> at = roi_bin(call, box, index.roi, index.cls, index.bin);
    const T* map = moved == nullptr
                       ? nullptr
                       : static_cast<const T*>(input.data) + first_channel(call, input, box.image, index);
    real* target = grad_input.data == nullptr ? nullptr
                                              : static_cast<real*>(grad_input.data) +
                                                    first_channel(call, grad_input, box.image, index);
    for (int64_t c = lane * N; c < call.run; c += lanes * N) {
      const Vector<T, N> rounded = load<N>(grad_output + item * call.run + c);
      real grad[N];
      SEGDCN_UNROLL
      for (int n = 0; n < N; ++n) grad[n] = at.share * static_cast<real>(rounded.element[n]);
      for (int32_t i = at.y.first; i < at.y.end; ++i) {
        const RoiRead<real> y = roi_read(at.y, i);
        if (!y.inside) continue;
        for (int32_t j = at.x.first; j < at.x.end; ++j) {
          const RoiRead<real> x = roi_read(at.x, j);
          if (!x.inside) continue;
          SEGDCN_UNROLL
          for (int corner = 0; corner < 4; ++corner) {
            const bool high_y = corner >= 2, high_x = corner % 2 == 1;
            const int64_t pixel = int64_t{high_y ? y.high : y.low} * call.width + (high_x ? x.high : x.low);
            const real weight_y = high_y ? y.weight_high : y.weight_low;
            const real weight_x = high_x ? x.weight_high : x.weight_low;
            if (target != nullptr) {
              real values[N];
              SEGDCN_UNROLL
              for (int n = 0; n < N; ++n) values[n] = weight_y * weight_x * grad[n];
              add_shared(target + pixel * grad_input.pixel + c, values);
            }
            if (map != nullptr) {
              const Vector<T, N> value = load<N>(map + pixel * input.pixel + c);
              real dot = 0;
              SEGDCN_UNROLL
              for (int n = 0; n < N; ++n) dot += grad[n] * static_cast<real>(value.element[n]);
              share.y += dot * weight_x * (high_y ? y.slope : -y.slope);
              share.x += dot * weight_y * (high_x ? x.slope : -x.slope);
            }
          }
        }
      }
    }
    return share;
  }

  SEGDCN_HD void finish(int64_t item, const Share& sum) const {
    if (moved == nullptr) return;
    const BinIndex index(call, item);
    const RoiBox<real> box = roi_box<real>(call, index.roi);
    const RoiBin<real> at = roi_bin(call, box, index.roi, index.cls, index.bin);
    moved[2 * item] = sum.x * at.per_x;
    moved[2 * item + 1] = sum.y * at.per_y;
  }
};

// grad_offset at one part of one class of a region: the sum over the bins that it moves.
template <typename real>
struct SumParts {
  RoiCall call;
  const real* moved;
  real* grad_offset;

  SEGDCN_HD void operator()(int64_t item, int, int) const {
    const int32_t parts = call.part_h * call.part_w;
    const int64_t fields = item / parts;  // region and class
    const int32_t part = static_cast<int32_t>(item - fields * parts);
    const int64_t roi = fields / call.classes, cls = fields - roi * call.classes;
    real x = 0, y = 0;
    for (int32_t bin = 0; bin < call.bins(); ++bin) {
      if (call.part_of(bin) != part) continue;
      const int64_t from = 2 * ((roi * call.bins() + bin) * call.classes + cls);
      x += moved[from];
      y += moved[from + 1];
    }
    grad_offset[fields * 2 * parts + part] = x;
    grad_offset[fields * 2 * parts + parts + part] = y;
  }
};

// ---------------------------------------------------------------- the input's gradient in a fixed order

// The pixels that a region touches: rows [top, bottom], columns [left, right].
struct RoiBounds {
  int32_t top, bottom, left, right;
  SEGDCN_HD bool hold(int32_t row, int32_t col) const {
    return row >= top && row <= bottom && col >= left && col <= right;
  }
};

template <typename real>
SEGDCN_HD void widen(const RoiAxis<real>& axis, int32_t& low, int32_t& high) {
  for (int32_t i = axis.first; i < axis.end; ++i) {
    const RoiRead<real> read = roi_read(axis, i);
    if (!read.inside) continue;
    low = read.low < low ? read.low : low;
    high = read.high > high ? read.high : high;
  }
}

template <typename real>
struct FindBounds {
  RoiCall call;
  RoiBounds* bounds;

  SEGDCN_HD void operator()(int64_t roi, int, int) const {
    RoiBounds found{call.height, -1, call.width, -1};
    const RoiBox<real> box = roi_box<real>(call, roi);
    if (box.image >= 0) {
      for (int32_t bin = 0; bin < call.bins(); ++bin) {
        for (int32_t cls = 0; cls < call.classes; ++cls) {
          const RoiBin<real> at = roi_bin(call, box, roi, cls, bin);
          widen(at.y, found.top, found.bottom);
          widen(at.x, found.left, found.right);
        }
      }
    }
    bounds[roi] = found;
  }
};

// How much an axis of a bin reads of one pixel.
template <typename real>
SEGDCN_HD real weight_of(const RoiAxis<real>& axis, int32_t pixel) {
  real weight = 0;
  for (int32_t i = axis.first; i < axis.end; ++i) {
    const RoiRead<real> read = roi_read(axis, i);
    if (!read.inside) continue;
    if (read.low == pixel) weight += read.weight_low;
    if (read.high == pixel) weight += read.weight_high;
  }
  return weight;
}

// grad_input at one pixel, for one group and class: asks every region in turn what it read there.
template <typename T, int N>
struct CollectGradient {
  using real = typename Accumulation<T>::type;
  RoiCall call;
  MapView grad_input;
  const RoiBounds* bounds;
  const T* grad_output;

  SEGDCN_HD void operator()(int64_t item, int lane, int lanes) const {
    const int64_t pixel_and_group = item / call.classes;
    const int32_t cls = static_cast<int32_t>(item - pixel_and_group * call.classes);
    const int64_t place = pixel_and_group / call.groups();
    const int32_t group = static_cast<int32_t>(pixel_and_group - place * call.groups());
    const int64_t pixels = int64_t{call.height} * call.width, image = place / pixels,
                  pixel = place - image * pixels;
    const int32_t row = static_cast<int32_t>(pixel / call.width);
    const int32_t col = static_cast<int32_t>(pixel - int64_t{row} * call.width);
    real* target = static_cast<real*>(grad_input.data) + image * grad_input.image + pixel * grad_input.pixel +
                   group * grad_input.group + cls * call.run;
    for (int64_t roi = 0; roi < call.num_rois; ++roi) {
      if (!bounds[roi].hold(row, col)) continue;
      const RoiBox<real> box = roi_box<real>(call, roi);
      if (box.image != image) continue;
      for (int32_t bin = 0; bin < call.bins(); ++bin) {
        if (call.group_of(bin) != group) continue;
        const RoiBin<real> at = roi_bin(call, box, roi, cls, bin);
        const real weight_y = weight_of(at.y, row);
        if (weight_y == real(0)) continue;
        const real weight = weight_y * weight_of(at.x, col) * at.share;
        if (weight == real(0)) continue;
        const int64_t from = ((roi * call.bins() + bin) * call.classes + cls) * call.run;
        for (int64_t c = lane * N; c < call.run; c += lanes * N) {
          const Vector<T, N> grad = load<N>(grad_output + from + c);
          SEGDCN_UNROLL
          for (int n = 0; n < N; ++n) target[c + n] += weight * static_cast<real>(grad.element[n]);
        }
      }
    }
  }
};

}  // namespace kernels
}  // namespace segdcn
