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
  // Of the first tap, before the offset is added.
  int32_t plane[kBlockPixels], row[kBlockPixels], col[kBlockPixels];
};

SEGDCN_INLINE void fill_block(Block& block, const Sampling& from, PixelRange pixels) {
  const ConvGeometry& g = *from.geometry;
  const FieldView &offset = from.offset, &mask = from.mask;
  block.size = static_cast<int>(pixels.size());
  int64_t image = pixels.begin / g.out_pixels(), within = pixels.begin % g.out_pixels();
  int64_t row = within / g.out_width, col = within % g.out_width;
  int64_t plane = row / g.out_height;
  row -= plane * g.out_height;
  for (int i = 0; i < block.size; ++i) {
    block.image[i] = image * g.pixels();
    block.offset[i] = offset.element(image, plane, row, col);
    block.mask[i] = mask.element(image, plane, row, col);
    block.plane[i] = static_cast<int32_t>(grid_position(plane, 0, g.stride_d, g.padding_d, g.dilation_d));
    block.row[i] = static_cast<int32_t>(grid_position(row, 0, g.stride_h, g.padding_h, g.dilation_h));
    block.col[i] = static_cast<int32_t>(grid_position(col, 0, g.stride_w, g.padding_w, g.dilation_w));
    if (++col < g.out_width) continue;
    col = 0;
    if (++row < g.out_height) continue;
    row = 0;
    if (++plane < g.out_depth) continue;
    plane = 0;
    ++image;
  }
}

// The reads of one tap for a block.
template <typename real, int dims>
struct Plan {
  int32_t pixel[1 << dims][kBlockPixels];
  real weight[1 << dims][kBlockPixels];
  real fraction[dims][kBlockPixels];
  real mask[kBlockPixels];
};

template <typename real, int dims>
void fill_plan(Plan<real, dims>& plan, const Block& block, const Sampling& from, int64_t offset_group,
               int64_t tap) {
  const ConvGeometry& g = *from.geometry;
  const int64_t tap_line = tap / g.kernel_w;
  const int32_t tap_plane = static_cast<int32_t>(tap_line / g.kernel_h * g.dilation_d);
  const int32_t tap_row = static_cast<int32_t>(tap_line % g.kernel_h * g.dilation_h);
  const int32_t tap_col = static_cast<int32_t>(tap % g.kernel_w * g.dilation_w);
  const int64_t channel = offset_group * g.taps() + tap;
  const int32_t map_size[] = {static_cast<int32_t>(g.depth), static_cast<int32_t>(g.height),
                              static_cast<int32_t>(g.width)};
  const int size = block.size;
  // Strided loads apart from the arithmetic, which vectorises without them.
  real moved[dims][kBlockPixels];
  const real* offset[dims];
  for (int d = 0; d < dims; ++d)
    offset[d] = static_cast<const real*>(from.offset.data) + (dims * channel + d) * from.offset.stride[1];
  for (int i = 0; i < size; ++i)
#pragma GCC unroll 3
    for (int d = 0; d < dims; ++d) moved[d][i] = offset[d][block.offset[i]];
#pragma GCC ivdep
  for (int i = 0; i < size; ++i) {
    real position[dims];
    if constexpr (dims == 3) position[0] = static_cast<real>(block.plane[i] + tap_plane) + moved[0][i];
    position[dims - 2] = static_cast<real>(block.row[i] + tap_row) + moved[dims - 2][i];
    position[dims - 1] = static_cast<real>(block.col[i] + tap_col) + moved[dims - 1][i];
    const LinearRead<real, dims> read = linear_read(position, map_size);
#pragma GCC unroll 8
    for (int j = 0; j < 1 << dims; ++j) plan.pixel[j][i] = read.pixel[j], plan.weight[j][i] = read.weight[j];
#pragma GCC unroll 3
    for (int d = 0; d < dims; ++d) plan.fraction[d][i] = read.fraction[d];
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
template <typename real, int dims>
class Plans {
 public:
  // `storage` holds a Plan per tap; `known` a byte per tap.
  Plans(const Sampling& from, Plan<real, dims>* storage, bool* known)
      : from_(from), storage_(storage), known_(known) {}

  const Block& block() const { return block_; }

  void start(PixelRange pixels) {
    fill_block(block_, from_, pixels);
    offset_group_ = -1;
  }

  const Plan<real, dims>& at(int64_t tap, int64_t offset_group) {
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
  Plan<real, dims>* storage_;
  bool* known_;
  Block block_;
  int64_t offset_group_ = -1;
};

// A run of columns that share a tap and an offset group, so that their channels lie side by
// side in the map and are read at the same positions.
template <typename real, int dims>
struct ColumnRun {
  const Plan<real, dims>* plan;
  int64_t column, length;  // counted from the first column asked for
  int64_t tap, offset_group, channel;
};

// Cuts columns [begin, end) of a weight group (tap * C/groups + channel) into runs and calls
// body(runs, count) for as many at a time as share an offset group.
template <typename real, int dims, typename Body>
SEGDCN_INLINE void for_each_runs(Plans<real, dims>& plans, const ConvGeometry& g, int64_t group,
                                 int64_t begin, int64_t end, const Body& body) {
  constexpr int most = 32;
  ColumnRun<real, dims> runs[most];
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
