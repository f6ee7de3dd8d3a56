// Gather, scatter and products on the CPU: vectorised over channels, one instruction set per
// build.
//
// Pixels are taken in blocks. Each run of columns that shares a tap and an offset group reads,
// or adds to, the corners (four, or eight) of all its channels, which lie side by side in NHWC memory.
#include "deform_conv_cpu_loops.h"

#include "cpu_plan.h"
#include "cpu_product.h"
#include "cpu_vector.h"
#include "sampling.h"

#define SEGDCN_JOIN2(a, b) a##b
#define SEGDCN_JOIN(a, b) SEGDCN_JOIN2(a, b)
#define SEGDCN_TEXT2(a) #a
#define SEGDCN_TEXT(a) SEGDCN_TEXT2(a)

namespace segdcn {
namespace {

// ---------------------------------------------------------------- memory

// Hands out parts of the calling thread's scratch memory.
class Scratch {
 public:
  explicit Scratch(void* memory) : next_(static_cast<char*>(memory)) {}
  template <typename A>
  A* take(int64_t count) {
    A* result = reinterpret_cast<A*>(next_);
    next_ += (count * static_cast<int64_t>(sizeof(A)) + 63) / 64 * 64;
    return result;
  }
  int64_t used() const { return reinterpret_cast<int64_t>(next_); }

 private:
  char* next_;
};

// The output channels of a group, rounded up to whole panels; never a power of two.
template <typename real>
SEGDCN_INLINE int64_t result_row(const ConvGeometry& g) {
  const int64_t width = kTileWidth<real>, outputs = g.out_channels / g.groups;
  return (outputs + width - 1) / width * width + 16;
}

template <typename T>
int64_t workspace_size(const ConvGeometry& g) {
  using real = typename Accumulation<T>::type;
  Scratch scratch(nullptr);
  if (g.dims == 2) {
    scratch.take<Plan<real, 2>>(g.taps());
  } else {
    scratch.take<Plan<real, 3>>(g.taps());
  }
  scratch.take<bool>(g.taps());
  scratch.take<real>(kBlockPixels * kBlockRow);
  scratch.take<real>(kBlockPixels * result_row<real>(g));
  return scratch.used();
}

// ---------------------------------------------------------------- gather

// inside[pixel * channels], or `outside` where there is no pixel (-1); without a branch, since
// near the border no processor can guess.
template <typename A>
SEGDCN_INLINE A* corner_place(A* inside, int64_t pixel, int64_t channels, A* outside) {
  const uintptr_t absent = static_cast<uintptr_t>(pixel >> 63);
  const uintptr_t here =
      reinterpret_cast<uintptr_t>(inside) + static_cast<uintptr_t>(pixel * channels) * sizeof(A);
  return reinterpret_cast<A*>((here & ~absent) | (reinterpret_cast<uintptr_t>(outside) & absent));
}

// What one run of channels reads for one pixel.
template <typename T, typename Out, typename real, int dims>
SEGDCN_INLINE void gather_pixel(const Plan<real, dims>& plan, int i, const T* image, int64_t channels,
                                const T* zero_row, int64_t length, Out* out) {
  using vector = typename VectorOf<real>::type;
  constexpr int lanes = kLanes<real>, corners = 1 << dims;
  const T* corner[corners];
  real weight[corners];
#pragma GCC unroll 8
  for (int j = 0; j < corners; ++j) {
    corner[j] = corner_place(image, plan.pixel[j][i], channels, zero_row);
    weight[j] = plan.weight[j][i] * plan.mask[i];
  }
  int64_t n = 0;
  for (; n + lanes <= length; n += lanes) {
    vector value = weight[0] * load(corner[0] + n);
#pragma GCC unroll 8
    for (int j = 1; j < corners; ++j) value += weight[j] * load(corner[j] + n);
    store(out + n, value);
  }
  if (n < length) {
    const int rest = static_cast<int>(length - n);
    vector value = weight[0] * load_part(corner[0] + n, rest);
#pragma GCC unroll 8
    for (int j = 1; j < corners; ++j) value += weight[j] * load_part(corner[j] + n, rest);
    store_part(out + n, value, rest);
  }
}

// The columns of a block: out[p][column - begin]. All runs of a pixel before the next pixel:
// its taps read near each other, from lines that are still in the first-level cache.
template <typename T, typename Out, typename real, int dims>
void gather_block(Plans<real, dims>& plans, const Sampling& from, int64_t group, int64_t begin, int64_t end,
                  Out* out, int64_t out_row) {
  const ConvGeometry& g = *from.geometry;
  const T* input = static_cast<const T*>(from.input);
  const T* zero_row = static_cast<const T*>(from.zero_row);
  for_each_runs(plans, g, group, begin, end, [&](const ColumnRun<real, dims>* runs, int count) {
    const Block& block = plans.block();
    for (int i = 0; i < block.size; ++i)
      for (int r = 0; r < count; ++r)
        gather_pixel(*runs[r].plan, i, input + block.image[i] * g.channels + runs[r].channel, g.channels,
                     zero_row, runs[r].length, out + i * out_row + runs[r].column);
  });
}

// columns[g, p, column] for pixels of a chunk.
template <typename T, int dims>
void gather_columns(const Sampling& from, PixelRange chunk, PixelRange pixels, void* columns,
                    void* workspace) {
  using real = typename Accumulation<T>::type;
  const ConvGeometry& g = *from.geometry;
  const int64_t row = g.columns() / g.groups;
  Scratch scratch(workspace);
  Plan<real, dims>* storage = scratch.take<Plan<real, dims>>(g.taps());
  Plans<real, dims> plans(from, storage, scratch.take<bool>(g.taps()));
  for (int64_t begin = pixels.begin; begin < pixels.end; begin += kBlockPixels) {
    plans.start({begin, smaller(begin + kBlockPixels, pixels.end)});
    for (int64_t group = 0; group < g.groups; ++group) {
      T* out = static_cast<T*>(columns) + (group * chunk.size() + begin - chunk.begin) * row;
      gather_block<T>(plans, from, group, 0, row, out, row);
    }
  }
}

// ---------------------------------------------------------------- scatter

// What one run of channels adds to the gradients of four corners, and their dot products: of one plane, since
// there are no registers for the places of eight.
template <bool kInput, bool kReads, typename T, typename Grad, typename real>
SEGDCN_INLINE void scatter_pixel(int64_t length, const Grad* grad, const T* const corner[4],
                                 real* const target[4], const real weight[4], real dot[4]) {
  using vector = typename VectorOf<real>::type;
  constexpr int lanes = kLanes<real>;
  vector sum[4] = {};
  int64_t n = 0;
  for (; n + lanes <= length; n += lanes) {
    const vector g = load(grad + n);
    for (int j = 0; j < 4; ++j) {
      if (kReads) sum[j] += g * load(corner[j] + n);
      if (kInput) store(target[j] + n, load(target[j] + n) + weight[j] * g);
    }
  }
  if (n < length) {
    const int rest = static_cast<int>(length - n);
    const vector g = load_part(grad + n, rest);
    for (int j = 0; j < 4; ++j) {
      if (kReads) sum[j] += g * load_part(corner[j] + n, rest);
      if (kInput) store_part(target[j] + n, load_part(target[j] + n, rest) + weight[j] * g, rest);
    }
  }
  if (kReads)
    for (int j = 0; j < 4; ++j) dot[j] = lane_sum<real>(sum[j]);
}

template <typename T, bool kInput, bool kReads, typename Grad, typename real, int dims>
SEGDCN_INLINE void scatter_runs(const Block& block, const Sampling& from, const ColumnRun<real, dims>* runs,
                                int count, const Grad* grads, int64_t grad_row, int64_t first_pixel,
                                const ReadGradients& to) {
  constexpr int corners = 1 << dims;
  const ConvGeometry& g = *from.geometry;
  const T* zero_row = static_cast<const T*>(from.zero_row);
  real* sink = static_cast<real*>(to.sink);
  for (int i = 0; i < block.size; ++i) {
    const int64_t image = block.image[i] * g.channels;
    const int64_t field = ((first_pixel + i) * g.offset_groups + runs[0].offset_group) * g.taps();
    for (int r = 0; r < count; ++r) {
      const ColumnRun<real, dims>& run = runs[r];
      const Plan<real, dims>& plan = *run.plan;
      const T* corner[corners];
      real* target[corners];
      real weight[corners], scaled[corners], dot[corners] = {};
      for (int j = 0; j < corners; ++j) {
        const int64_t pixel = plan.pixel[j][i], place = image + run.channel;
        corner[j] = corner_place(static_cast<const T*>(from.input) + place, pixel, g.channels, zero_row);
        target[j] = kInput ? corner_place(static_cast<real*>(to.input) + place, pixel, g.channels,
                                          sink + j * g.channels)
                           : sink;
        weight[j] = plan.weight[j][i];
        scaled[j] = weight[j] * plan.mask[i];
      }
#pragma GCC unroll 2
      for (int j = 0; j < corners; j += 4)
        scatter_pixel<kInput, kReads>(run.length, grads + i * grad_row + run.column, corner + j, target + j,
                                      scaled + j, dot + j);
      if (kReads) {
        real fraction[dims];
        for (int d = 0; d < dims; ++d) fraction[d] = plan.fraction[d][i];
        const ReadGradient<real, dims> gradient = read_gradient(weight, fraction, dot);
        real* reads = static_cast<real*>(to.reads) + (field + run.tap) * (dims + 1);
        for (int d = 0; d < dims; ++d) reads[d] += gradient.position[d] * plan.mask[i];
        reads[dims] += gradient.value;
      }
    }
  }
}

// The reverse of gather_block: grads[p][column - begin] to the map and the reads.
template <typename T, typename Grad, typename real, int dims>
void scatter_block(Plans<real, dims>& plans, const Sampling& from, const ColumnBlock& columns,
                   const Grad* grads, int64_t grad_row, int64_t first_pixel, const ReadGradients& to) {
  const auto body = [&](const ColumnRun<real, dims>* runs, int count) {
    const Block& block = plans.block();
    if (to.input != nullptr && to.reads != nullptr) {
      scatter_runs<T, true, true>(block, from, runs, count, grads, grad_row, first_pixel, to);
    } else if (to.input != nullptr) {
      scatter_runs<T, true, false>(block, from, runs, count, grads, grad_row, first_pixel, to);
    } else if (to.reads != nullptr) {
      scatter_runs<T, false, true>(block, from, runs, count, grads, grad_row, first_pixel, to);
    }
  };
  for_each_runs(plans, *from.geometry, columns.group, columns.begin, columns.end, body);
}

template <typename T, int dims>
void scatter_columns(const Sampling& from, PixelRange chunk, PixelRange pixels, const void* grad_columns,
                     const ColumnBlock* blocks, int64_t num_blocks, const ReadGradients& to,
                     void* workspace) {
  using real = typename Accumulation<T>::type;
  const ConvGeometry& g = *from.geometry;
  const int64_t row = g.columns() / g.groups;
  Scratch scratch(workspace);
  Plan<real, dims>* storage = scratch.take<Plan<real, dims>>(g.taps());
  Plans<real, dims> plans(from, storage, scratch.take<bool>(g.taps()));
  for (int64_t begin = pixels.begin; begin < pixels.end; begin += kBlockPixels) {
    plans.start({begin, smaller(begin + kBlockPixels, pixels.end)});
    const int64_t first = begin - chunk.begin;
    for (int64_t i = 0; i < num_blocks; ++i) {
      const int64_t place = (blocks[i].group * chunk.size() + first) * row + blocks[i].begin;
      scatter_block<T>(plans, from, blocks[i], static_cast<const T*>(grad_columns) + place, row, first, to);
    }
  }
}

// ---------------------------------------------------------------- sums

template <typename T>
void add_bias_rows(const void* bias_data, int64_t num_rows, int64_t num_columns, void* rows_data) {
  const T* bias = static_cast<const T*>(bias_data);
  T* rows = static_cast<T*>(rows_data);
  for (int64_t r = 0; r < num_rows; ++r)
    for (int64_t c = 0; c < num_columns; ++c)
      store_one(rows + r * num_columns + c, load_one(rows + r * num_columns + c) + load_one(bias + c));
}

template <typename T>
void accumulate_elements(const void* part_data, int64_t count, void* total_data) {
  const T* part = static_cast<const T*>(part_data);
  auto* total = static_cast<typename Accumulation<T>::type*>(total_data);
  for (int64_t i = 0; i < count; ++i) total[i] += load_one(part + i);
}

// ---------------------------------------------------------------- direct path: weights

template <typename T>
int64_t panel_width() {
  return kTileWidth<typename Accumulation<T>::type>;
}

// Elements per row of a panel that holds `count` columns or outputs.
template <typename real>
SEGDCN_INLINE int64_t panel_row(int64_t count) {
  return (count + kLanes<real> - 1) / kLanes<real> * kLanes<real>;
}

// panel[column][output] for the outputs of one tile.
template <typename T>
void pack_output_panel(const ConvGeometry& g, const WeightView& weight, int64_t group, int64_t tile,
                       void* panel_data) {
  using real = typename Accumulation<T>::type;
  constexpr int lanes = kLanes<real>;
  const int64_t outputs = g.out_channels / g.groups, channels = g.channels / g.groups, taps = g.taps();
  const int64_t begin = tile * kTileWidth<real>, count = smaller<int64_t>(outputs - begin, kTileWidth<real>);
  const int64_t row = panel_row<real>(count), depth = channels * taps;
  real* panel = static_cast<real*>(panel_data);
  const T* first = static_cast<const T*>(weight.data) + (group * outputs + begin) * depth;
  // Squares of outputs x weights in the order of memory, which is that of the columns
  // (channels-last) or has the taps innermost.
  for (int64_t part = 0; part < row; part += lanes) {
    for (int64_t i = 0; i < depth; i += lanes) {
      const int valid = static_cast<int>(smaller<int64_t>(lanes, depth - i));
      typename VectorOf<real>::type square[lanes];
      for (int o = 0; o < lanes; ++o) {
        const T* from = first + (part + o) * depth + i;
        square[o] = part + o >= count ? typename VectorOf<real>::type{}
                    : valid == lanes  ? load(from)
                                      : load_part(from, valid);
      }
      transpose<real>(square);
      for (int j = 0; j < valid; ++j) {
        const int64_t column = weight.channels_last ? i + j : (i + j) % taps * channels + (i + j) / taps;
        store(panel + column * row + part, square[j]);
      }
    }
  }
}

// panels[tile][output][column] for the columns of one block.
template <typename T>
void pack_column_panels(const ConvGeometry& g, const WeightView& weight, const ColumnBlock& block,
                        void* panels) {
  using real = typename Accumulation<T>::type;
  constexpr int lanes = kLanes<real>;
  const int64_t outputs = g.out_channels / g.groups, channels = g.channels / g.groups;
  const int64_t depth = channels * g.taps();
  const T* first = static_cast<const T*>(weight.data) + block.group * outputs * depth;
  real* panel = static_cast<real*>(panels);
  for (int64_t begin = block.begin; begin < block.end; begin += kTileWidth<real>) {
    const int64_t count = smaller<int64_t>(block.end - begin, kTileWidth<real>), row = panel_row<real>(count);
    for (int64_t o = 0; o < outputs; ++o) {
      const T* from = first + o * depth;
      real* to = panel + o * row;
      if (weight.channels_last) {
        for (int64_t i = 0; i < row; i += lanes) {
          const int valid = static_cast<int>(smaller<int64_t>(lanes, count - i));
          store(to + i, valid == lanes ? load(from + begin + i) : load_part(from + begin + i, valid));
        }
      } else {
        for (int64_t i = 0; i < count; ++i)
          to[i] = load_one(from + (begin + i) / channels + (begin + i) % channels * g.taps());
        for (int64_t i = count; i < row; ++i) to[i] = real(0);
      }
    }
    panel += outputs * kTileWidth<real>;
  }
}

// ---------------------------------------------------------------- direct path: forward

// A result of a block, results[p][o - first], to its place, with the bias.
template <typename T, typename real>
void store_results(const ConvGeometry& g, const real* results, int64_t row, PixelRange pixels, int64_t first,
                   int64_t count, const T* bias, const DenseView& output) {
  constexpr int lanes = kLanes<real>;
  T* data = static_cast<T*>(output.data);
  if (output.channels_last) {
    for (int64_t p = 0; p < pixels.size(); ++p) {
      T* to = data + (pixels.begin + p) * g.out_channels + first;
      const real* from = results + p * row;
      for (int64_t o = 0; o < count; o += lanes) {
        const int rest = static_cast<int>(smaller<int64_t>(lanes, count - o));
        auto value = load(from + o);
        if (bias != nullptr) value += load_part(bias + first + o, rest);
        if (rest == lanes) {
          store(to + o, value);
        } else {
          store_part(to + o, value, rest);
        }
      }
    }
    return;
  }
  const int64_t image_pixels = g.out_pixels();
  for (int64_t begin = pixels.begin; begin < pixels.end;) {  // image by image
    const int64_t image = begin / image_pixels, end = smaller((image + 1) * image_pixels, pixels.end);
    for (int64_t o = 0; o < count; ++o) {
      T* to = data + (image * g.out_channels + first + o) * image_pixels - image * image_pixels;
      const real add = bias != nullptr ? load_one(bias + first + o) : real(0);
      const real* from = results - pixels.begin * row + o;
      for (int64_t p = begin; p < end; ++p) store_one(to + p, from[p * row] + add);
    }
    begin = end;
  }
}

template <typename T, int dims>
void convolve_pixels(const Sampling& from, PixelRange pixels, const PackedOutputs& packed, int64_t first_tile,
                     int64_t last_tile, const void* bias, const DenseView& output, void* workspace) {
  using real = typename Accumulation<T>::type;
  constexpr int64_t width = kTileWidth<real>;
  const ConvGeometry& g = *from.geometry;
  const int64_t outputs = g.out_channels / g.groups, depth = g.columns() / g.groups;
  const int64_t row = result_row<real>(g);
  Scratch scratch(workspace);
  Plan<real, dims>* storage = scratch.take<Plan<real, dims>>(g.taps());
  Plans<real, dims> plans(from, storage, scratch.take<bool>(g.taps()));
  real* columns = scratch.take<real>(kBlockPixels * kBlockRow);
  real* results = scratch.take<real>(kBlockPixels * row);
  const int64_t num_parts = (depth + kBlockColumns - 1) / kBlockColumns;

  for (int64_t begin = pixels.begin; begin < pixels.end; begin += kBlockPixels) {
    const PixelRange block{begin, smaller(begin + kBlockPixels, pixels.end)};
    plans.start(block);
    for (int64_t group = 0; group < g.groups; ++group) {
      for (int64_t part = 0; part < num_parts; ++part) {
        const int64_t start = depth * part / num_parts, end = depth * (part + 1) / num_parts;
        gather_block<T>(plans, from, group, start, end, columns, kBlockRow);
        for (int64_t tile = first_tile; tile < last_tile; ++tile) {
          const int64_t count = smaller(width, outputs - tile * width), panel = panel_row<real>(count);
          const int64_t place = group * packed.num_tiles + tile - packed.first_tile;
          const real* weights = static_cast<const real*>(packed.data) + place * depth * width;
          const real* weights_part = weights + start * panel;
          product_strip<real>(block.size(), count, end - start, {columns, kBlockRow, 1}, weights_part, panel,
                              results + (tile - first_tile) * width, row, part > 0,
                              weights_part + depth * width);
        }
      }
      const int64_t first = first_tile * width, count = smaller(outputs, last_tile * width) - first;
      store_results<T>(g, results, row, block, group * outputs + first, count, static_cast<const T*>(bias),
                       output);
    }
  }
}

// ---------------------------------------------------------------- direct path: few pixels

// Columns [begin, end) of a group for all pixels, in the weight's order of memory.
template <typename T, int dims>
void gather_few_pixels(const Sampling& from, PixelRange pixels, const ColumnBlock& block, bool channels_last,
                       void* columns, int64_t row, void* workspace) {
  using real = typename Accumulation<T>::type;
  const ConvGeometry& g = *from.geometry;
  const int64_t channels = g.channels / g.groups, taps = g.taps();
  Scratch scratch(workspace);
  Plan<real, dims>* storage = scratch.take<Plan<real, dims>>(taps);
  Plans<real, dims> plans(from, storage, scratch.take<bool>(taps));
  real* part = scratch.take<real>(kBlockPixels * kBlockRow);
  plans.start(pixels);
  gather_block<T>(plans, from, block.group, block.begin, block.end, part, kBlockRow);
  for (int64_t p = 0; p < pixels.size(); ++p) {
    real* to = static_cast<real*>(columns) + p * row;
    for (int64_t i = block.begin; i < block.end; ++i) {
      const int64_t place = channels_last ? i : i % channels * taps + i / channels;
      to[place] = part[p * kBlockRow + i - block.begin];
    }
  }
}

// Dot products of four columns of pixels and some rows of the weight.
template <typename T, int outputs, typename real>
SEGDCN_INLINE void dot_tile(int64_t depth, const real* const pixels[4], const T* const weights[outputs],
                            real* results, int64_t row) {
  using vector = typename VectorOf<real>::type;
  constexpr int lanes = kLanes<real>;
  vector sum[4][outputs] = {};
  const auto step = [&](auto&& read_pixel, auto&& read_weight) {
    vector w[outputs];
    for (int j = 0; j < outputs; ++j) w[j] = read_weight(j);
    for (int i = 0; i < 4; ++i) {
      const vector column = read_pixel(i);
      for (int j = 0; j < outputs; ++j) sum[i][j] += column * w[j];
    }
  };
  int64_t n = 0;
  for (; n + lanes <= depth; n += lanes)
    step([&](int i) { return load(pixels[i] + n); }, [&](int j) { return load(weights[j] + n); });
  if (const int rest = static_cast<int>(depth - n); rest > 0)
    step([&](int i) { return load_part(pixels[i] + n, rest); },
         [&](int j) { return load_part(weights[j] + n, rest); });
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < outputs; ++j) results[i * row + j] = lane_sum<real>(sum[i][j]);
}

// Output channels [begin, end) of a group: so few pixels do not pay for packing the weight.
template <typename T>
void convolve_few_pixels(const ConvGeometry& g, PixelRange pixels, const void* columns_data,
                         int64_t column_row, const WeightView& weight, int64_t group, int64_t begin,
                         int64_t end, const void* bias, const DenseView& output) {
  using real = typename Accumulation<T>::type;
  constexpr int at_once = kRegisterBytes == 64 ? 4 : 2, together = 16;
  const int64_t outputs = g.out_channels / g.groups, depth = g.columns() / g.groups, count = pixels.size();
  const real* columns = static_cast<const real*>(columns_data);
  const T* weights = static_cast<const T*>(weight.data) + group * outputs * depth;
  alignas(64) real results[(kBlockPixels + 4) * together];
  for (int64_t first = begin; first < end; first += together) {
    const int64_t width = smaller<int64_t>(together, end - first);
    for (int64_t o = 0; o < width; o += at_once) {
      const T* rows[at_once];  // beyond the last, the last again
      for (int j = 0; j < at_once; ++j) rows[j] = weights + smaller(first + o + j, end - 1) * depth;
      for (int64_t p = 0; p < count; p += 4) {
        const real* reads[4];
        for (int i = 0; i < 4; ++i) reads[i] = columns + smaller(p + i, count - 1) * column_row;
        dot_tile<T, at_once>(depth, reads, rows, results + p * together + o, together);
      }
    }
    store_results<T>(g, results, together, pixels, group * outputs + first, width,
                     static_cast<const T*>(bias), output);
  }
}

// ---------------------------------------------------------------- direct path: backward

// rows[p][o] of the accumulation type, from a gradient in either layout.
template <typename T>
void read_gradient_rows(const ConvGeometry& g, const DenseView& grad_output, PixelRange pixels,
                        void* rows_data, int64_t row_length) {
  using real = typename Accumulation<T>::type;
  const T* data = static_cast<const T*>(grad_output.data);
  real* rows = static_cast<real*>(rows_data);
  const int64_t outputs = g.out_channels, image_pixels = g.out_pixels();
  if (grad_output.channels_last) {
    for (int64_t p = 0; p < pixels.size(); ++p)
      for (int64_t o = 0; o < outputs; ++o)
        rows[p * row_length + o] = load_one(data + (pixels.begin + p) * outputs + o);
    return;
  }
  for (int64_t begin = pixels.begin; begin < pixels.end;) {
    // 16 pixels of one channel after the other: whole cache lines on both sides.
    const int64_t image = begin / image_pixels;
    const int64_t end = smaller(smaller((image + 1) * image_pixels, pixels.end), begin + 16);
    for (int64_t o = 0; o < outputs; ++o) {
      const T* from = data + (image * outputs + o) * image_pixels - image * image_pixels;
      for (int64_t p = begin; p < end; ++p) rows[(p - pixels.begin) * row_length + o] = load_one(from + p);
    }
    begin = end;
  }
}

// grad_weight[o][column] (+)= sum over pixels of rows[p][o] * column[p], for a block's columns.
template <typename T, int dims>
void weight_gradient_block(const Sampling& from, PixelRange pixels, const void* rows_data, int64_t row_length,
                           const ColumnBlock& block, void* grad_weight, bool add, void* workspace) {
  using real = typename Accumulation<T>::type;
  constexpr int64_t width = kTileWidth<real>;
  const ConvGeometry& g = *from.geometry;
  const int64_t outputs = g.out_channels / g.groups, depth = g.columns() / g.groups;
  Scratch scratch(workspace);
  Plan<real, dims>* storage = scratch.take<Plan<real, dims>>(g.taps());
  Plans<real, dims> plans(from, storage, scratch.take<bool>(g.taps()));
  real* columns = scratch.take<real>(kBlockPixels * kBlockRow);
  alignas(64) real tile[kTileRows * width];
  real* target = static_cast<real*>(grad_weight) + block.group * outputs * depth + block.begin;

  for (int64_t begin = pixels.begin; begin < pixels.end; begin += kBlockPixels) {
    const PixelRange part{begin, smaller(begin + kBlockPixels, pixels.end)};
    plans.start(part);
    gather_block<T>(plans, from, block.group, block.begin, block.end, columns, kBlockRow);
    const real* rows =
        static_cast<const real*>(rows_data) + (begin - pixels.begin) * row_length + block.group * outputs;
    for (int64_t column = 0; column < block.size(); column += width) {
      const int64_t count = smaller(width, block.size() - column);
      if (count % kLanes<real> == 0) {
        product_strip<real>(outputs, count, part.size(), {rows, 1, row_length}, columns + column, kBlockRow,
                            target + column, depth, add, columns + column);
        continue;
      }
      // The last columns do not fill a register, and what lies behind them is not ours.
      for (int64_t o = 0; o < outputs; o += kTileRows) {
        const int64_t height = smaller<int64_t>(kTileRows, outputs - o);
        product_strip<real>(height, count, part.size(), {rows + o, 1, row_length}, columns + column,
                            kBlockRow, tile, width, false, columns + column);
        for (int64_t i = 0; i < height; ++i)
          for (int64_t j = 0; j < count; ++j) {
            real& sum = target[(o + i) * depth + column + j];
            sum = add ? sum + tile[i * width + j] : tile[i * width + j];
          }
      }
    }
    add = true;
  }
}

// The gradient of the columns of some blocks, a block of pixels at a time, and at once on to
// the map and the reads.
template <typename T, int dims>
void product_and_scatter(const Sampling& from, PixelRange chunk, PixelRange pixels, const void* rows_data,
                         int64_t row_length, const void* packed, const ColumnBlock* blocks,
                         int64_t num_blocks, const ReadGradients& to, void* workspace) {
  using real = typename Accumulation<T>::type;
  constexpr int64_t width = kTileWidth<real>;
  const ConvGeometry& g = *from.geometry;
  const int64_t outputs = g.out_channels / g.groups;
  Scratch scratch(workspace);
  Plan<real, dims>* storage = scratch.take<Plan<real, dims>>(g.taps());
  Plans<real, dims> plans(from, storage, scratch.take<bool>(g.taps()));
  real* grads = scratch.take<real>(kBlockPixels * kBlockRow);

  for (int64_t begin = pixels.begin; begin < pixels.end; begin += kBlockPixels) {
    const PixelRange part{begin, smaller(begin + kBlockPixels, pixels.end)};
    const int64_t first = begin - chunk.begin;
    plans.start(part);
    for (int64_t i = 0; i < num_blocks; ++i) {
      const ColumnBlock& block = blocks[i];
      const real* rows = static_cast<const real*>(rows_data) + first * row_length + block.group * outputs;
      for (int64_t column = 0; column < block.size(); column += width) {
        const int64_t count = smaller(width, block.size() - column), panel = panel_row<real>(count);
        const real* weights = static_cast<const real*>(packed) + block.packed + column * outputs;
        for (int64_t o = 0; o < outputs; o += kBlockColumns) {
          const int64_t depth = smaller(kBlockColumns, outputs - o);
          product_strip<real>(part.size(), count, depth, {rows + o, row_length, 1}, weights + o * panel,
                              panel, grads + column, kBlockRow, o > 0, weights + o * panel + depth * panel);
        }
      }
      scatter_block<T>(plans, from, block, grads, kBlockRow, first, to);
    }
  }
}

// ---------------------------------------------------------------- dtypes

// One function of a table entry's signature, chosen by its first argument.
template <typename Signature, Signature* f32, Signature* f64, Signature* f16, Signature* bf16>
struct ByDType;
template <typename R, typename... A, R (*f32)(A...), R (*f64)(A...), R (*f16)(A...), R (*bf16)(A...)>
struct ByDType<R(A...), f32, f64, f16, bf16> {
  static R call(DType dtype, A... arguments) {
    switch (dtype) {
      case DType::kDouble: return f64(arguments...);
      case DType::kHalf: return f16(arguments...);
      case DType::kBFloat16: return bf16(arguments...);
      default: return f32(arguments...);
    }
  }
};
#define SEGDCN_BY_DTYPE(function)                                                            \
  ByDType<decltype(function<float>), function<float>, function<double>, function<half_bits>, \
          function<bfloat16_bits>>::call

// Likewise for functions that read maps, of two or of three dimensions.
template <typename Signature, Signature* two, Signature* three>
struct ByDims;
template <typename R, typename... A, R (*two)(const Sampling&, A...), R (*three)(const Sampling&, A...)>
struct ByDims<R(const Sampling&, A...), two, three> {
  static R call(const Sampling& from, A... arguments) {
    return from.geometry->dims == 2 ? two(from, arguments...) : three(from, arguments...);
  }
};
#define SEGDCN_BY_DIMS(function, T) ByDims<decltype(function<T, 2>), function<T, 2>, function<T, 3>>::call
#define SEGDCN_BY_DTYPE_AND_DIMS(function)                                                                 \
  ByDType<decltype(function<float, 2>), SEGDCN_BY_DIMS(function, float), SEGDCN_BY_DIMS(function, double), \
          SEGDCN_BY_DIMS(function, half_bits), SEGDCN_BY_DIMS(function, bfloat16_bits)>::call

}  // namespace

extern const CpuLoops SEGDCN_JOIN(kLoops_, SEGDCN_ISA) = {SEGDCN_TEXT(SEGDCN_ISA),
                                                          SEGDCN_BY_DTYPE_AND_DIMS(gather_columns),
                                                          SEGDCN_BY_DTYPE_AND_DIMS(scatter_columns),
                                                          SEGDCN_BY_DTYPE(add_bias_rows),
                                                          SEGDCN_BY_DTYPE(accumulate_elements),
                                                          SEGDCN_BY_DTYPE(panel_width),
                                                          SEGDCN_BY_DTYPE(workspace_size),
                                                          SEGDCN_BY_DTYPE(pack_output_panel),
                                                          SEGDCN_BY_DTYPE(pack_column_panels),
                                                          SEGDCN_BY_DTYPE_AND_DIMS(convolve_pixels),
                                                          SEGDCN_BY_DTYPE_AND_DIMS(gather_few_pixels),
                                                          SEGDCN_BY_DTYPE(convolve_few_pixels),
                                                          SEGDCN_BY_DTYPE(read_gradient_rows),
                                                          SEGDCN_BY_DTYPE_AND_DIMS(weight_gradient_block),
                                                          SEGDCN_BY_DTYPE_AND_DIMS(product_and_scatter)};

}  // namespace segdcn
