// RoI pooling on the CPU: vectorised over channels, one instruction set per build.
//
// A bin's samples are a grid, and so are the pixels that they touch: the weights of rows and of columns are
// summed per pixel first, and each pixel is then read once, however many samples touch it.
#include "roi_pool_cpu_loops.h"

#include "cpu_vector.h"

#define SEGDCN_JOIN2(a, b) a##b
#define SEGDCN_JOIN(a, b) SEGDCN_JOIN2(a, b)
#define SEGDCN_TEXT2(a) #a
#define SEGDCN_TEXT(a) SEGDCN_TEXT2(a)

namespace segdcn {
namespace {

// ---------------------------------------------------------------- the pixels of a bin

// The rows, or the columns, that a bin touches: the sums of their weights and of their slopes.
template <typename real>
struct Line {
  int32_t count;
  int32_t* pixel;
  real *weight, *slope;
};

template <typename real>
SEGDCN_INLINE void add_pixel(Line<real>& line, int32_t pixel, real weight, real slope) {
  // Neighbouring samples touch neighbouring pixels: one of the last three, or a new one.
  for (int32_t i = line.count - 1; i >= 0 && i >= line.count - 3; --i) {
    if (line.pixel[i] != pixel) continue;
    line.weight[i] += weight;
    line.slope[i] += slope;
    return;
  }
  line.pixel[line.count] = pixel;
  line.weight[line.count] = weight;
  line.slope[line.count++] = slope;
}

template <typename real>
SEGDCN_INLINE void fill_line(Line<real>& line, const RoiAxis<real>& axis) {
  line.count = 0;
  for (int32_t i = axis.first; i < axis.end; ++i) {
    const RoiRead<real> read = roi_read(axis, i);
    if (!read.inside) continue;
    add_pixel(line, read.low, read.weight_low, -read.slope);
    if (read.high != read.low) add_pixel(line, read.high, read.weight_high, read.slope);
  }
}

// The calling thread's scratch memory: lines, and a tile of a region's bins with their channels.
template <typename real>
struct Workspace {
  Line<real> y, x;
  real* tile;
  int64_t row;  // of the tile: its channels in whole registers

  Workspace(void* memory, const RoiCall& call, int64_t channels) {
    char* next = static_cast<char*>(memory);
    const auto take = [&next](int64_t count, int64_t size) {
      char* result = next;
      next += (count * size + 63) / 64 * 64;
      return result;
    };
    // A pixel is listed once: positions run along the axis in one direction.
    const auto line = [&take](int64_t most) {
      return Line<real>{0, reinterpret_cast<int32_t*>(take(most, 4)),
                        reinterpret_cast<real*>(take(most, sizeof(real))),
                        reinterpret_cast<real*>(take(most, sizeof(real)))};
    };
    y = line(int64_t{call.height} + 2);
    x = line(int64_t{call.width} + 2);
    constexpr int64_t lanes = kLanes<real>;
    row = (channels + lanes - 1) / lanes * lanes;
    tile = reinterpret_cast<real*>(take(row * ((call.bins() + lanes - 1) / lanes * lanes), sizeof(real)));
    used = next - static_cast<char*>(memory);
  }
  int64_t used;
};

// ---------------------------------------------------------------- tiles

// tile[bin][channel] -> the result, (channels, bins) or (bins, channels).
template <typename T, typename real = typename Accumulation<T>::type>
void write_tile(const RoiCall& call, int64_t roi, const RoiChannels& channels, const PooledView& output,
                const real* tile, int64_t row) {
  constexpr int64_t lanes = kLanes<real>;
  const int64_t depth = call.classes * call.run, bins = call.bins(), first = channels.cls * call.run;
  const int64_t count = channels.end - channels.begin;
  T* to = static_cast<T*>(output.data) + roi * depth * bins;
  if (output.rows) {
    for (int64_t bin = 0; bin < bins; ++bin) {
      T* here = to + bin * depth + first + channels.begin;
      const real* from = tile + bin * row;
      int64_t c = 0;
      for (; c + lanes <= count; c += lanes) store(here + c, load(from + c));
      for (; c < count; ++c) store_one(here + c, from[c]);
    }
    return;
  }
  typename VectorOf<real>::type square[lanes];
  for (int64_t c = 0; c < count; c += lanes) {
    const int64_t rows = count - c < lanes ? count - c : lanes;
    for (int64_t bin = 0; bin < bins; bin += lanes) {
      const int64_t here = bins - bin < lanes ? bins - bin : lanes;
      for (int64_t i = 0; i < lanes; ++i) square[i] = load(tile + (bin + i) * row + c);
      transpose<real>(square);
      T* corner = to + (first + channels.begin + c) * bins + bin;
      if (here == lanes) {
        for (int64_t i = 0; i < rows; ++i) store(corner + i * bins, square[i]);
      } else {
        for (int64_t i = 0; i < rows; ++i) store_part(corner + i * bins, square[i], static_cast<int>(here));
      }
    }
  }
}

// The gradient of the result -> tile[bin][channel], times each bin's share later.
template <typename T, typename real = typename Accumulation<T>::type>
void read_tile(const RoiCall& call, int64_t roi, const RoiChannels& channels, const PooledView& grad_output,
               real* tile, int64_t row) {
  constexpr int64_t lanes = kLanes<real>;
  const int64_t depth = call.classes * call.run, bins = call.bins(), first = channels.cls * call.run;
  const int64_t count = channels.end - channels.begin;
  const T* from = static_cast<const T*>(grad_output.data) + roi * depth * bins;
  if (grad_output.rows) {
    for (int64_t bin = 0; bin < bins; ++bin) {
      const T* here = from + bin * depth + first + channels.begin;
      real* to = tile + bin * row;
      int64_t c = 0;
      for (; c + lanes <= count; c += lanes) store(to + c, load(here + c));
      for (; c < count; ++c) to[c] = load_one(here + c);
    }
    return;
  }
  typename VectorOf<real>::type square[lanes];
  for (int64_t c = 0; c < count; c += lanes) {
    const int64_t rows = count - c < lanes ? count - c : lanes;
    for (int64_t bin = 0; bin < bins; bin += lanes) {
      const int64_t here = bins - bin < lanes ? bins - bin : lanes;
      const T* corner = from + (first + channels.begin + c) * bins + bin;
      for (int64_t i = 0; i < lanes; ++i) {
        const T* line = corner + (i < rows ? i : 0) * bins;
        square[i] = here == lanes ? load(line) : load_part(line, static_cast<int>(here));
      }
      transpose<real>(square);
      for (int64_t i = 0; i < lanes; ++i) store(tile + (bin + i) * row + c, square[i]);
    }
  }
}

// The first channel of a bin's run, pixel 0.
template <typename T>
SEGDCN_INLINE T* first_channel(const RoiCall& call, const MapView& map, int64_t image, int32_t group,
                               const RoiChannels& channels) {
  return static_cast<T*>(map.data) + image * map.image + group * map.group +
         (channels.cls * call.run + channels.begin) * map.channel;
}

// ---------------------------------------------------------------- forward

// `Registers` registers of channels of a bin, which lie side by side.
template <int Registers, typename T, typename real>
SEGDCN_INLINE void pool_registers(const Line<real>& y, const Line<real>& x, const T* map, int64_t pixel,
                                  int64_t width, real share, real* to) {
  constexpr int64_t lanes = kLanes<real>;
  typename VectorOf<real>::type sum[Registers] = {};
  for (int32_t i = 0; i < y.count; ++i) {
    const T* line = map + y.pixel[i] * width * pixel;
    for (int32_t j = 0; j < x.count; ++j) {
      const real weight = y.weight[i] * x.weight[j];
      const T* from = line + x.pixel[j] * pixel;
#pragma GCC unroll 8
      for (int r = 0; r < Registers; ++r) sum[r] += load(from + r * lanes) * weight;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < Registers; ++r) store(to + r * lanes, sum[r] * share);
}

template <typename T, typename real>
void pool_bin(const Line<real>& y, const Line<real>& x, const T* map, const MapView& input, int64_t width,
              int64_t count, real share, real* to) {
  constexpr int64_t lanes = kLanes<real>;
  int64_t c = 0;
  if (input.channel == 1) {
    for (; c + 8 * lanes <= count; c += 8 * lanes)
      pool_registers<8>(y, x, map + c, input.pixel, width, share, to + c);
    for (; c + lanes <= count; c += lanes)
      pool_registers<1>(y, x, map + c, input.pixel, width, share, to + c);
  }
  for (; c < count; ++c) {
    real sum = 0;
    for (int32_t i = 0; i < y.count; ++i) {
      const T* line = map + c * input.channel + y.pixel[i] * width * input.pixel;
      real part = 0;
      for (int32_t j = 0; j < x.count; ++j) part += load_one(line + x.pixel[j] * input.pixel) * x.weight[j];
      sum += part * y.weight[i];
    }
    to[c] = sum * share;
  }
}

template <typename T>
void pool_region(const RoiCall& call, const MapView& input, int64_t roi, const RoiChannels& channels,
                 const PooledView& output, void* memory) {
  using real = typename Accumulation<T>::type;
  const int64_t count = channels.end - channels.begin;
  Workspace<real> scratch(memory, call, count);
  const RoiBox<real> box = roi_box<real>(call, roi);
  for (int32_t bin = 0; bin < call.bins(); ++bin) {
    real* to = scratch.tile + bin * scratch.row;
    if (box.image < 0) {
      for (int64_t c = 0; c < count; ++c) to[c] = 0;
      continue;
    }
    const RoiBin<real> at = roi_bin(call, box, roi, channels.cls, bin);
    fill_line(scratch.y, at.y);
    fill_line(scratch.x, at.x);
    const T* map = first_channel<const T>(call, input, box.image, call.group_of(bin), channels);
    pool_bin(scratch.y, scratch.x, map, input, call.width, count, at.share, to);
  }
  write_tile<T>(call, roi, channels, output, scratch.tile, scratch.row);
}

// ---------------------------------------------------------------- backward

// What backward of a bin needs, beside its lines; any of the two may be null.
template <typename T, typename real>
struct BinGradient {
  const T* map;    // for the offset
  real* gradient;  // of the input
  int64_t pixel, channel, grad_pixel, grad_channel, width, count;
};

// Returns, by reference, the gradient of the bin's position.
template <typename T, typename real>
void bin_backward(const Line<real>& y, const Line<real>& x, const BinGradient<T, real>& at, const real* grad,
                  real& dy, real& dx) {
  constexpr int64_t lanes = kLanes<real>;
  using vector = typename VectorOf<real>::type;
  const bool together =
      (at.map == nullptr || at.channel == 1) && (at.gradient == nullptr || at.grad_channel == 1);
  const int64_t whole = together ? at.count / lanes * lanes : 0;
  vector sum_y = {}, sum_x = {};
  real rest_y = 0, rest_x = 0;
  for (int32_t i = 0; i < y.count; ++i) {
    for (int32_t j = 0; j < x.count; ++j) {
      const int64_t pixel = y.pixel[i] * at.width + x.pixel[j];
      const real weight = y.weight[i] * x.weight[j];
      if (at.gradient != nullptr) {
        real* to = at.gradient + pixel * at.grad_pixel;
        for (int64_t c = 0; c < whole; c += lanes) store(to + c, load(to + c) + load(grad + c) * weight);
        for (int64_t c = whole; c < at.count; ++c) to[c * at.grad_channel] += grad[c] * weight;
      }
      if (at.map != nullptr) {
        const T* from = at.map + pixel * at.pixel;
        const real slope_y = y.slope[i] * x.weight[j], slope_x = y.weight[i] * x.slope[j];
        vector dot = {}, other = {};
        int64_t c = 0;
        for (; c + 2 * lanes <= whole; c += 2 * lanes) {
          dot += load(grad + c) * load(from + c);
          other += load(grad + c + lanes) * load(from + c + lanes);
        }
        if (c < whole) dot += load(grad + c) * load(from + c);
        dot += other;
        sum_y += dot * slope_y;
        sum_x += dot * slope_x;
        real rest = 0;
        for (c = whole; c < at.count; ++c) rest += grad[c] * load_one(from + c * at.channel);
        rest_y += rest * slope_y;
        rest_x += rest * slope_x;
      }
    }
  }
  dy = rest_y + lane_sum<real>(sum_y);
  dx = rest_x + lane_sum<real>(sum_x);
}

template <typename T>
void backward_regions(const RoiCall& call, const MapView& input, const int64_t* rois, int64_t num_rois,
                      int32_t group, const RoiChannels& channels, const PooledView& grad_output,
                      const MapView& grad_input, void* moved, void* memory) {
  using real = typename Accumulation<T>::type;
  const int64_t count = channels.end - channels.begin;
  Workspace<real> scratch(memory, call, count);
  for (int64_t i = 0; i < num_rois; ++i) {
    const int64_t roi = rois[i];
    const RoiBox<real> box = roi_box<real>(call, roi);
    read_tile<T>(call, roi, channels, grad_output, scratch.tile, scratch.row);
    BinGradient<T, real> to{
        nullptr,    nullptr, input.pixel, input.channel, grad_input.pixel, grad_input.channel,
        call.width, count};
    if (grad_input.data != nullptr)
      to.gradient = first_channel<real>(call, grad_input, box.image, group, channels);
    if (moved != nullptr) to.map = first_channel<const T>(call, input, box.image, group, channels);
    for (int32_t bin = 0; bin < call.bins(); ++bin) {
      if (call.group_of(bin) != group) continue;
      const RoiBin<real> at = roi_bin(call, box, roi, channels.cls, bin);
      fill_line(scratch.y, at.y);
      fill_line(scratch.x, at.x);
      real* grad = scratch.tile + bin * scratch.row;
      for (int64_t c = 0; c < count; ++c) grad[c] *= at.share;
      real dy, dx;
      bin_backward(scratch.y, scratch.x, to, grad, dy, dx);
      if (moved == nullptr) continue;
      real* here = static_cast<real*>(moved) + ((roi * call.bins() + bin) * call.classes + channels.cls) * 2;
      here[0] = dx * at.per_x;
      here[1] = dy * at.per_y;
    }
  }
}

// ---------------------------------------------------------------- by dtype

template <typename T>
struct Tag {
  using type = T;
};

template <typename Body>
SEGDCN_INLINE auto for_dtype(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kDouble: return body(Tag<double>{});
    case DType::kHalf: return body(Tag<half_bits>{});
    case DType::kBFloat16: return body(Tag<bfloat16_bits>{});
    default: return body(Tag<float>{});
  }
}

int64_t workspace_bytes(DType dtype, const RoiCall& call, int64_t channels) {
  if (dtype == DType::kDouble) return Workspace<double>(nullptr, call, channels).used;
  return Workspace<float>(nullptr, call, channels).used;
}

void pool_any(DType dtype, const RoiCall& call, const MapView& input, int64_t roi,
              const RoiChannels& channels, const PooledView& output, void* workspace) {
  for_dtype(dtype, [&](auto tag) {
    pool_region<typename decltype(tag)::type>(call, input, roi, channels, output, workspace);
  });
}

void backward_any(DType dtype, const RoiCall& call, const MapView& input, const int64_t* rois,
                  int64_t num_rois, int32_t group, const RoiChannels& channels, const PooledView& grad_output,
                  const MapView& grad_input, void* moved, void* workspace) {
  for_dtype(dtype, [&](auto tag) {
    backward_regions<typename decltype(tag)::type>(call, input, rois, num_rois, group, channels, grad_output,
                                                   grad_input, moved, workspace);
  });
}

}  // namespace

extern const RoiLoops SEGDCN_JOIN(kRoiLoops_, SEGDCN_ISA) = {SEGDCN_TEXT(SEGDCN_ISA), workspace_bytes,
                                                             pool_any, backward_any};

}  // namespace segdcn
