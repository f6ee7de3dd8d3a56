// The sampling plan: where each pixel of a block reads for one tap, shared by all channels.
//
// Pixels are taken in blocks. For one offset group and tap, the reading positions of a whole
// block are worked out in one vectorised loop; then every channel of the group reads there.
#pragma once

#include "cpu_vector.h"
#include "deform_conv_cpu_loops.h"
#include "sampling.h"

namespace segdcn {
namespace {

template <typename A>
SEGDCN_INLINE A smaller(A a, A b) {
  return a < b ? a : b;
}

// Where each output pixel of a block lies.
struct Block {
  int size;
  int64_t image[kBlockPixels];   // first pixel of its image, in pixels
  int64_t offset[kBlockPixels];  // its element in the offset's first channel
  int64_t mask[kBlockPixels];
  int32_t row[kBlockPixels], col[kBlockPixels];  // of tap (0, 0), before the offset is added
};

SEGDCN_INLINE void fill_block(Block& block, const Sampling& from, PixelRange pixels) {
  const ConvGeometry& g = *from.geometry;
  const FieldView &offset = from.offset, &mask = from.mask;
  block.size = static_cast<int>(pixels.size());
  int64_t image = pixels.begin / g.out_pixels(), within = pixels.begin % g.out_pixels();
  int64_t row = within / g.out_width, col = within % g.out_width;
  for (int i = 0; i < block.size; ++i) {
    block.image[i] = image * g.height * g.width;
    block.offset[i] = image * offset.stride[0] + row * offset.stride[2] + col * offset.stride[3];
    block.mask[i] = image * mask.stride[0] + row * mask.stride[2] + col * mask.stride[3];
    block.row[i] = static_cast<int32_t>(grid_position(row, 0, g.stride_h, g.padding_h, g.dilation_h));
    block.col[i] = static_cast<int32_t>(grid_position(col, 0, g.stride_w, g.padding_w, g.dilation_w));
    if (++col == g.out_width) {
      col = 0;
      if (++row == g.out_height) {
        row = 0;
        ++image;
      }
    }
  }
}

// The reads of one tap for a block.
template <typename real>
struct Plan {
  int32_t pixel[4][kBlockPixels];
  real weight[4][kBlockPixels];
  real ly[kBlockPixels], lx[kBlockPixels];
  real mask[kBlockPixels];
};

template <typename real>
void fill_plan(Plan<real>& plan, const Block& block, const Sampling& from, int64_t offset_group,
               int64_t tap) {
  const ConvGeometry& g = *from.geometry;
  const int32_t tap_row = static_cast<int32_t>(tap / g.kernel_w * g.dilation_h);
  const int32_t tap_col = static_cast<int32_t>(tap % g.kernel_w * g.dilation_w);
  const int64_t channel = offset_group * g.taps() + tap;
  const real* dy = static_cast<const real*>(from.offset.data) + 2 * channel * from.offset.stride[1];
  const real* dx = dy + from.offset.stride[1];
  const int32_t height = static_cast<int32_t>(g.height), width = static_cast<int32_t>(g.width);
  const int size = block.size;
  // Strided loads apart from the arithmetic, which vectorises without them.
  real y[kBlockPixels], x[kBlockPixels];
  for (int i = 0; i < size; ++i) y[i] = dy[block.offset[i]], x[i] = dx[block.offset[i]];
#pragma GCC ivdep
  for (int i = 0; i < size; ++i) {
    const BilinearRead<real> read =
        bilinear_read(static_cast<real>(block.row[i] + tap_row) + y[i],
                      static_cast<real>(block.col[i] + tap_col) + x[i], height, width);
    plan.pixel[0][i] = read.pixel[0], plan.weight[0][i] = read.weight[0];
    plan.pixel[1][i] = read.pixel[1], plan.weight[1][i] = read.weight[1];
    plan.pixel[2][i] = read.pixel[2], plan.weight[2][i] = read.weight[2];
    plan.pixel[3][i] = read.pixel[3], plan.weight[3][i] = read.weight[3];
    plan.ly[i] = read.ly, plan.lx[i] = read.lx;
  }
  if (from.mask.data != nullptr) {
    const real* modulation = static_cast<const real*>(from.mask.data) + channel * from.mask.stride[1];
    for (int i = 0; i < size; ++i) plan.mask[i] = modulation[block.mask[i]];
  } else {
    for (int i = 0; i < size; ++i) plan.mask[i] = real(1);
  }
}

// The plans of a block's taps, each worked out when it is first asked for and kept as long as
// the offset group stays the same: convolutions with many weight groups ask again and again.
template <typename real>
class Plans {
 public:
  // `storage` holds a Plan per tap; `known` a byte per tap.
  Plans(const Sampling& from, Plan<real>* storage, bool* known)
      : from_(from), storage_(storage), known_(known) {}

  const Block& block() const { return block_; }

  void start(PixelRange pixels) {
    fill_block(block_, from_, pixels);
    offset_group_ = -1;
  }

  const Plan<real>& at(int64_t tap, int64_t offset_group) {
    if (offset_group != offset_group_) {
      for (int64_t i = 0; i < from_.geometry->taps(); ++i) known_[i] = false;
      offset_group_ = offset_group;
    }
    if (!known_[tap]) {
      fill_plan(storage_[tap], block_, from_, offset_group, tap);
      known_[tap] = true;
    }
    return storage_[tap];
  }

 private:
  const Sampling& from_;
  Plan<real>* storage_;
  bool* known_;
  Block block_;
  int64_t offset_group_ = -1;
};

// A run of columns that share a tap and an offset group, so that their channels lie side by
// side in the map and are read at the same positions.
template <typename real>
struct ColumnRun {
  const Plan<real>* plan;
  int64_t column, length;  // counted from the first column asked for
  int64_t tap, offset_group, channel;
};

// Cuts columns [begin, end) of a weight group (tap * C/groups + channel) into runs and calls
// body(runs, count) for as many at a time as share an offset group.
template <typename real, typename Body>
SEGDCN_INLINE void for_each_runs(Plans<real>& plans, const ConvGeometry& g, int64_t group, int64_t begin,
                                 int64_t end, const Body& body) {
  constexpr int most = 32;
  ColumnRun<real> runs[most];
  const int64_t per_group = g.channels / g.groups, per_offset_group = g.channels / g.offset_groups;
  int count = 0;
  for (int64_t column = begin; column < end;) {
    const int64_t tap = column / per_group, within = column % per_group;
    const int64_t channel = group * per_group + within, offset_group = channel / per_offset_group;
    if (count == most || (count > 0 && offset_group != runs[0].offset_group)) {
      body(runs, count);
      count = 0;
    }
    const int64_t here = smaller(per_group - within, (offset_group + 1) * per_offset_group - channel);
    const int64_t length = smaller(here, end - column);
    runs[count++] = {&plans.at(tap, offset_group), column - begin, length, tap, offset_group, channel};
    column += length;
  }
  body(runs, count);
}

}  // namespace
}  // namespace segdcn
