// Gather and scatter on the CPU: vectorised over channels, one instruction set per build.
//
// Output pixels are taken in blocks. For one offset group and tap the reading positions of
// a whole block are worked out first (they are shared by all channels of the group); then
// each pixel reads, or adds to, the four corners of all its channels, which lie side by
// side in NHWC memory.
#include "deform_conv_cpu_loops.h"

#include "cpu_vector.h"
#include "sampling.h"

#define SEGDCN_JOIN2(a, b) a##b
#define SEGDCN_JOIN(a, b) SEGDCN_JOIN2(a, b)
#define SEGDCN_TEXT2(a) #a
#define SEGDCN_TEXT(a) SEGDCN_TEXT2(a)

namespace segdcn {
namespace {

constexpr int kBlock = 32;  // pixels; the positions of a block stay in the first-level cache

template <typename A>
SEGDCN_INLINE A smaller(A a, A b) {
  return a < b ? a : b;
}

// Where each output pixel of a block lies.
template <typename real>
struct Block {
  int size;
  int64_t image[kBlock];   // first pixel of its image, in pixels
  int64_t offset[kBlock];  // its element in the offset's first channel
  int64_t mask[kBlock];
  int64_t row[kBlock], col[kBlock];  // of tap (0, 0), before the offset is added
};

template <typename real>
SEGDCN_INLINE void fill_block(Block<real>& block, const ConvGeometry& g, const FieldView& offset,
                              const FieldView& mask, int64_t begin, int64_t end) {
  block.size = static_cast<int>(smaller<int64_t>(kBlock, end - begin));
  int64_t image = begin / g.out_pixels(), within = begin % g.out_pixels();
  int64_t row = within / g.out_width, col = within % g.out_width;
  for (int i = 0; i < block.size; ++i) {
    block.image[i] = image * g.height * g.width;
    block.offset[i] = image * offset.stride[0] + row * offset.stride[2] + col * offset.stride[3];
    block.mask[i] = image * mask.stride[0] + row * mask.stride[2] + col * mask.stride[3];
    block.row[i] = grid_position(row, 0, g.stride_h, g.padding_h, g.dilation_h);
    block.col[i] = grid_position(col, 0, g.stride_w, g.padding_w, g.dilation_w);
    if (++col == g.out_width) {
      col = 0;
      if (++row == g.out_height) {
        row = 0;
        ++image;
      }
    }
  }
}

// The reads of one tap for a block: the sampling plan.
template <typename real>
struct Plan {
  int32_t pixel[4][kBlock];
  real weight[4][kBlock];
  real ly[kBlock], lx[kBlock];
  real mask[kBlock];
};

template <typename real>
SEGDCN_INLINE void fill_plan(Plan<real>& plan, const Block<real>& block, const ConvGeometry& g,
                             const FieldView& offset, const FieldView& mask, int64_t group, int64_t tap) {
  const int64_t tap_row = tap / g.kernel_w * g.dilation_h, tap_col = tap % g.kernel_w * g.dilation_w;
  const int64_t channel = group * g.taps() + tap;
  const real* dy = static_cast<const real*>(offset.data) + 2 * channel * offset.stride[1];
  const real* dx = dy + offset.stride[1];
  const int32_t height = static_cast<int32_t>(g.height), width = static_cast<int32_t>(g.width);
  for (int i = 0; i < block.size; ++i) {
    const real y = static_cast<real>(block.row[i] + tap_row) + dy[block.offset[i]];
    const real x = static_cast<real>(block.col[i] + tap_col) + dx[block.offset[i]];
    const BilinearRead<real> read = bilinear_read(y, x, height, width);
    for (int corner = 0; corner < 4; ++corner) {
      plan.pixel[corner][i] = read.pixel[corner];
      plan.weight[corner][i] = read.weight[corner];
    }
    plan.ly[i] = read.ly;
    plan.lx[i] = read.lx;
  }
  if (mask.data != nullptr) {
    const real* modulation = static_cast<const real*>(mask.data) + channel * mask.stride[1];
    for (int i = 0; i < block.size; ++i) plan.mask[i] = modulation[block.mask[i]];
  } else {
    for (int i = 0; i < block.size; ++i) plan.mask[i] = real(1);
  }
}

// Where the columns of (pixel of the chunk, tap, channel) lie, and how many channels follow
// before the weight group, and with it the place, changes.
struct ColumnRun {
  int64_t start, length;
};

SEGDCN_INLINE ColumnRun column_run(const ConvGeometry& g, int64_t num_pixels, int64_t pixel, int64_t tap,
                                   int64_t channel, int64_t channel_end) {
  const int64_t per_group = g.channels / g.groups, group = channel / per_group;
  const int64_t within = channel - group * per_group;
  return {((group * num_pixels + pixel) * g.taps() + tap) * per_group + within,
          smaller(channel_end - channel, per_group - within)};
}

// ---------------------------------------------------------------- gather

template <typename T>
void gather_pixels(const GatherTask& task, PixelRange pixels) {
  using real = typename Accumulation<T>::type;
  using vector = typename VectorOf<real>::type;
  constexpr int lanes = kLanes<real>;
  const ConvGeometry& g = *task.geometry;
  const T* input = static_cast<const T*>(task.input);
  const T* zero_row = static_cast<const T*>(task.zero_row);
  T* columns = static_cast<T*>(task.columns);
  const int64_t per_group = g.channels / g.offset_groups;
  Block<real> block;
  Plan<real> plan;

  for (int64_t begin = pixels.begin; begin < pixels.end; begin += kBlock) {
    fill_block(block, g, task.offset, task.mask, begin, pixels.end);
    for (int64_t group = 0; group < g.offset_groups; ++group) {
      for (int64_t tap = 0; tap < g.taps(); ++tap) {
        fill_plan(plan, block, g, task.offset, task.mask, group, tap);
        for (int i = 0; i < block.size; ++i) {
          const T* corner[4];
          real weight[4];
          for (int j = 0; j < 4; ++j) {
            const int32_t pixel = plan.pixel[j][i];
            corner[j] = pixel >= 0 ? input + (block.image[i] + pixel) * g.channels : zero_row;
            weight[j] = plan.weight[j][i] * plan.mask[i];
          }
          const int64_t channel_end = (group + 1) * per_group;
          for (int64_t channel = group * per_group; channel < channel_end;) {
            const ColumnRun run =
                column_run(g, task.num_pixels, begin + i - task.first_pixel, tap, channel, channel_end);
            T* target = columns + run.start;
            const T *a = corner[0] + channel, *b = corner[1] + channel, *c = corner[2] + channel,
                    *d = corner[3] + channel;
            int64_t n = 0;
            for (; n + lanes <= run.length; n += lanes) {
              const vector value = weight[0] * load(a + n) + weight[1] * load(b + n) +
                                   weight[2] * load(c + n) + weight[3] * load(d + n);
              store(target + n, value);
            }
            for (; n < run.length; ++n)
              store_one(target + n, weight[0] * load_one(a + n) + weight[1] * load_one(b + n) +
                                        weight[2] * load_one(c + n) + weight[3] * load_one(d + n));
            channel += run.length;
          }
        }
      }
    }
  }
}

// ---------------------------------------------------------------- scatter

// What one run of channels adds to the four dot products, and to the gradient of the input.
template <bool kInput, bool kReads, typename T, typename real>
SEGDCN_INLINE void scatter_run(int64_t length, const T* grad, const T* const corner[4], real* const target[4],
                               const real weight[4], real dot[4]) {
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
  if (kReads)
    for (int j = 0; j < 4; ++j) dot[j] += lane_sum<real>(sum[j]);
  for (; n < length; ++n) {
    const real g = load_one(grad + n);
    for (int j = 0; j < 4; ++j) {
      if (kReads) dot[j] += g * load_one(corner[j] + n);
      if (kInput) target[j][n] += weight[j] * g;
    }
  }
}

template <typename T, bool kInput, bool kReads>
void scatter_pixels(const ScatterTask& task, PixelRange pixels) {
  using real = typename Accumulation<T>::type;
  const ConvGeometry& g = *task.geometry;
  const T* input = static_cast<const T*>(task.input);
  const T* zero_row = static_cast<const T*>(task.zero_row);
  const T* grad_columns = static_cast<const T*>(task.grad_columns);
  real* grad_input = static_cast<real*>(task.grad_input);
  real* grad_reads = static_cast<real*>(task.grad_reads);
  real* sink = static_cast<real*>(task.sink);
  Block<real> block;
  Plan<real> plan;

  for (int64_t begin = pixels.begin; begin < pixels.end; begin += kBlock) {
    fill_block(block, g, task.offset, task.mask, begin, pixels.end);
    for (int64_t tap = 0; tap < g.taps(); ++tap) {
      fill_plan(plan, block, g, task.offset, task.mask, task.offset_group, tap);
      for (int i = 0; i < block.size; ++i) {
        const int64_t chunk_pixel = begin + i - task.first_pixel;
        const T* corner[4];
        real* target[4];
        real weight[4], scaled[4], dot[4] = {};
        for (int j = 0; j < 4; ++j) {
          const int64_t pixel = plan.pixel[j][i], place = (block.image[i] + pixel) * g.channels;
          corner[j] = pixel >= 0 ? input + place : zero_row;
          target[j] = pixel >= 0 && kInput ? grad_input + place : sink + j * g.channels;
          weight[j] = plan.weight[j][i];
          scaled[j] = weight[j] * plan.mask[i];
        }
        for (int64_t channel = task.channel_begin; channel < task.channel_end;) {
          const ColumnRun run = column_run(g, task.num_pixels, chunk_pixel, tap, channel, task.channel_end);
          const T* const from[4] = {corner[0] + channel, corner[1] + channel, corner[2] + channel,
                                    corner[3] + channel};
          real* const to[4] = {target[0] + channel, target[1] + channel, target[2] + channel,
                               target[3] + channel};
          scatter_run<kInput, kReads>(run.length, grad_columns + run.start, from, to, scaled, dot);
          channel += run.length;
        }
        if (kReads) {
          const ReadGradient<real> gradient = read_gradient(weight, plan.ly[i], plan.lx[i], dot);
          real* out = grad_reads + ((chunk_pixel * g.offset_groups + task.offset_group) * g.taps() + tap) * 3;
          out[0] = gradient.dy * plan.mask[i];
          out[1] = gradient.dx * plan.mask[i];
          out[2] = gradient.value;
        }
      }
    }
  }
}

template <typename T>
void scatter_needed(const ScatterTask& task, PixelRange pixels) {
  if (task.grad_input != nullptr && task.grad_reads != nullptr) {
    scatter_pixels<T, true, true>(task, pixels);
  } else if (task.grad_input != nullptr) {
    scatter_pixels<T, true, false>(task, pixels);
  } else if (task.grad_reads != nullptr) {
    scatter_pixels<T, false, true>(task, pixels);
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

// ---------------------------------------------------------------- dtypes

#define SEGDCN_BY_DTYPE(dtype, function, ...)                           \
  switch (dtype) {                                                      \
    case DType::kFloat: return function<float>(__VA_ARGS__);            \
    case DType::kDouble: return function<double>(__VA_ARGS__);          \
    case DType::kHalf: return function<half_bits>(__VA_ARGS__);         \
    case DType::kBFloat16: return function<bfloat16_bits>(__VA_ARGS__); \
  }

void gather_any(DType dtype, const GatherTask& task, PixelRange pixels) {
  SEGDCN_BY_DTYPE(dtype, gather_pixels, task, pixels)
}
void scatter_any(DType dtype, const ScatterTask& task, PixelRange pixels) {
  SEGDCN_BY_DTYPE(dtype, scatter_needed, task, pixels)
}
void add_bias_any(DType dtype, const void* bias, int64_t num_rows, int64_t num_columns, void* rows) {
  SEGDCN_BY_DTYPE(dtype, add_bias_rows, bias, num_rows, num_columns, rows)
}
void accumulate_any(DType dtype, const void* part, int64_t count, void* total) {
  SEGDCN_BY_DTYPE(dtype, accumulate_elements, part, count, total)
}

}  // namespace

extern const CpuLoops SEGDCN_JOIN(kLoops_, SEGDCN_ISA) = {SEGDCN_TEXT(SEGDCN_ISA), gather_any, scatter_any,
                                                          add_bias_any, accumulate_any};

}  // namespace segdcn
