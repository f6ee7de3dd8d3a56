// The CPU's side of deform_conv.h: chooses the instruction set; the path through columns.
#include "deform_conv_cpu.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace segdcn {
namespace {

using torch::stable::parallel_for;

// The widest instruction set that this processor and the operating system offer.
// SEGDCN_CPU=baseline|avx2|avx512 asks for one of them, to compare and to test them.
const CpuLoops& choose_loops() {
  std::vector<const CpuLoops*> offered{&kLoops_baseline};
#if defined(SEGDCN_HAS_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    offered.push_back(&kLoops_avx2);
#endif
#if defined(SEGDCN_HAS_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq"))
    offered.push_back(&kLoops_avx512);
#endif
  const char* asked = std::getenv("SEGDCN_CPU");
  if (asked == nullptr || *asked == '\0') return *offered.back();
  std::string names;
  for (const CpuLoops* candidate : offered) {
    if (std::strcmp(asked, candidate->name) == 0) return *candidate;
    names += std::string(" ") + candidate->name;
  }
  STD_TORCH_CHECK(false, "SEGDCN_CPU is ", asked, ", but this processor and build offer:", names);
}

template <typename real, int dims>
void write_sums(const ConvGeometry& g, PixelRange pixels, const real* parts, int64_t num_slices,
                int64_t slice_size, const FieldView& grad_offset, const FieldView& grad_mask) {
  const int64_t fields = g.offset_groups * g.taps();
  parallel_for(0, pixels.size(), std::max<int64_t>(1, 4096 / fields), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t pixel = pixels.begin + p, image = pixel / g.out_pixels(), within = pixel % g.out_pixels();
      const int64_t line = within / g.out_width, col = within % g.out_width;
      const int64_t plane = line / g.out_height, row = line % g.out_height;
      const auto at = [&](const FieldView& view) {
        return static_cast<real*>(view.data) + view.element(image, plane, row, col);
      };
      real *offsets = at(grad_offset), *masks = at(grad_mask);
      for (int64_t field = 0; field < fields; ++field) {
        real sum[dims + 1] = {};
        for (int64_t slice = 0; slice < num_slices; ++slice)
          for (int i = 0; i <= dims; ++i)
            sum[i] += parts[slice * slice_size + (p * fields + field) * (dims + 1) + i];
        for (int d = 0; d < dims; ++d) offsets[(dims * field + d) * grad_offset.stride[1]] = sum[d];
        if (grad_mask.data != nullptr) masks[field * grad_mask.stride[1]] = sum[dims];
      }
    }
  });
}

// Adds the blocks of columns [begin, end) of a weight group, at most `limit` each and `step`
// (whole taps) where more than one fits.
void add_blocks(std::vector<ColumnBlock>& blocks, int64_t group, int64_t begin, int64_t end, int64_t limit,
                int64_t step) {
  const int64_t most = step <= limit ? limit / step * step : limit;
  const int64_t count = (end - begin + most - 1) / most;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t from = begin + i * most;
    blocks.push_back({group, from, std::min(end, from + most), 0});
  }
}

}  // namespace

const CpuLoops& loops() {
  static const CpuLoops& chosen = choose_loops();
  return chosen;
}

// The instruction set in use; registered as an operator.
std::string cpu_capability() { return loops().name; }

// ---------------------------------------------------------------- backward's shares

Slices::Slices(const ConvGeometry& g, int64_t wanted, int64_t max_block) {
  const int64_t channels = g.channels / g.offset_groups, per_weight_group = g.channels / g.groups;
  // Slices narrower than a few registers waste the loads of the reading positions.
  const int64_t count = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, channels / 32));
  const int64_t size = ((channels + count - 1) / count + 31) / 32 * 32;
  per_group_ = (channels + size - 1) / size;
  for (int64_t offset_group = 0; offset_group < g.offset_groups; ++offset_group) {
    for (int64_t slice = 0; slice < per_group_; ++slice) {
      const int64_t begin = offset_group * channels + slice * size;
      const int64_t end = offset_group * channels + std::min(channels, (slice + 1) * size);
      std::vector<ColumnBlock> blocks;
      for (int64_t channel = begin; channel < end;) {
        const int64_t group = channel / per_weight_group, first = group * per_weight_group;
        const int64_t stop = std::min(end, first + per_weight_group);
        if (stop - channel == per_weight_group) {  // the whole group: its taps are one run of columns
          add_blocks(blocks, group, 0, g.taps() * per_weight_group, max_block, per_weight_group);
        } else {
          for (int64_t tap = 0; tap < g.taps(); ++tap)
            add_blocks(blocks, group, tap * per_weight_group + channel - first,
                       tap * per_weight_group + stop - first, max_block, max_block);
        }
        channel = stop;
      }
      blocks_.push_back(std::move(blocks));
    }
  }
}

ReadSums::ReadSums(DType dtype, const ConvGeometry& geometry, int64_t num_pixels, int64_t num_slices)
    : dtype_(dtype),
      geometry_(geometry),
      num_slices_(num_slices),
      slice_bytes_(bytes(num_pixels)),
      memory_(num_slices * slice_bytes_) {}

void ReadSums::clear(int64_t num_pixels) {
  for (int64_t i = 0; i < num_slices_; ++i) std::memset(slice(i), 0, bytes(num_pixels));
}

void ReadSums::write(PixelRange pixels, const FieldView& grad_offset, const FieldView& grad_mask) const {
  const auto write_as = [&](auto element) {
    using real = decltype(element);
    const auto* parts = reinterpret_cast<const real*>(memory_.get());
    const int64_t slice_size = slice_bytes_ / static_cast<int64_t>(sizeof(real));
    const auto write = geometry_.dims == 2 ? write_sums<real, 2> : write_sums<real, 3>;
    write(geometry_, pixels, parts, num_slices_, slice_size, grad_offset, grad_mask);
  };
  if (dtype_ == DType::kDouble) {
    write_as(double{});
  } else {
    write_as(float{});
  }
}

// ---------------------------------------------------------------- columns

Limits limits() { return {int64_t{16} << 20, int64_t{16} << 20}; }

// Always: no two threads add to one element. So what would sort is never called.
bool scatters_in_order() { return true; }
void corner_keys(DType, const ConvGeometry&, PixelRange, const Source&, int64_t, int64_t*, void*) {}
void add_sorted(DType, const ConvGeometry&, PixelRange, const Source&, int64_t, const SortedCorners&,
                const void*, void*) {}

void gather(DType dtype, const ConvGeometry& geometry, PixelRange pixels, const Source& source,
            void* columns) {
  const std::vector<char> zeros = zero_row(geometry);
  const Sampling from{&geometry, source.input, source.offset, source.mask, zeros.data()};
  // Enough pixels per task that starting a thread pays: about 64 KiB of columns.
  const int64_t grain = std::max<int64_t>(1, 16384 / geometry.columns());
  parallel_for(pixels.begin, pixels.end, grain, [&](int64_t begin, int64_t end) {
    const Buffer workspace(loops().workspace_bytes(dtype, geometry));
    loops().gather(dtype, from, pixels, {begin, end}, columns, workspace.get());
  });
}

// Work is cut into (image, offset group, slice of its channels): no two threads add to the
// same element of grad_input, so there are no atomics, and the sums are the same every run.
void scatter(DType dtype, const ConvGeometry& geometry, PixelRange pixels, const Source& source,
             const void* grad_columns, void* grad_input, const FieldView& grad_offset,
             const FieldView& grad_mask) {
  const ConvGeometry& g = geometry;
  const int64_t first_image = pixels.begin / g.out_pixels();
  const int64_t num_images = (pixels.end - 1) / g.out_pixels() - first_image + 1;
  const int64_t groups = num_images * g.offset_groups, threads = torch::stable::get_num_threads();
  Slices slices(g, (threads + groups - 1) / groups, g.columns());
  const bool needs_reads = grad_offset.data != nullptr;
  ReadSums reads(dtype, g, needs_reads ? pixels.size() : 0, slices.per_group());
  if (needs_reads) reads.clear(pixels.size());
  const std::vector<char> zeros = zero_row(g);
  const Sampling from{&g, source.input, source.offset, source.mask, zeros.data()};

  share_tasks(groups * slices.per_group(), [&](Tasks& tasks) {
    const Buffer workspace(loops().workspace_bytes(dtype, g));
    std::vector<char> sink = sink_rows(dtype, g);
    for (int64_t i; tasks.take(i);) {
      const int64_t slice = i % slices.per_group(), group = i / slices.per_group() % g.offset_groups;
      const int64_t image = first_image + i / slices.per_group() / g.offset_groups;
      const std::vector<ColumnBlock>& blocks = slices.blocks(group, slice);
      const ReadGradients to{grad_input, needs_reads ? reads.slice(slice) : nullptr, sink.data()};
      loops().scatter(dtype, from, pixels,
                      {std::max(pixels.begin, image * g.out_pixels()),
                       std::min(pixels.end, (image + 1) * g.out_pixels())},
                      grad_columns, blocks.data(), static_cast<int64_t>(blocks.size()), to, workspace.get());
    }
  });
  if (needs_reads) reads.write(pixels, grad_offset, grad_mask);
}

void add_bias(DType dtype, const void* bias, int64_t num_rows, int64_t num_columns, void* rows) {
  const int64_t grain = std::max<int64_t>(1, 32768 / num_columns);
  const int64_t row_bytes = num_columns * element_bytes(dtype);
  parallel_for(0, num_rows, grain, [&](int64_t begin, int64_t end) {
    loops().add_bias(dtype, bias, end - begin, num_columns, static_cast<char*>(rows) + begin * row_bytes);
  });
}

void accumulate(DType dtype, const void* part, int64_t count, void* total) {
  parallel_for(0, count, 32768, [&](int64_t begin, int64_t end) {
    loops().accumulate(dtype, static_cast<const char*>(part) + begin * element_bytes(dtype), end - begin,
                       static_cast<char*>(total) + begin * accumulator_bytes(dtype));
  });
}

}  // namespace segdcn
