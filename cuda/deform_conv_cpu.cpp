// The CPU's side of deform_conv.h: chooses the instruction set and spreads work over threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "deform_conv_cpu_loops.h"

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

const CpuLoops& loops() {
  static const CpuLoops& chosen = choose_loops();
  return chosen;
}

int64_t accumulator_bytes(DType dtype) { return dtype == DType::kDouble ? 8 : 4; }

// Enough pixels per task that starting a thread pays: about 64 KiB of columns.
int64_t pixels_per_task(const ConvGeometry& g) { return std::max<int64_t>(1, 16384 / g.columns()); }

// (P, G, K, 3) gradients of the reads, one set per slice of channels, summed and handed to
// the tensors that asked for them.
template <typename real>
void write_read_gradients(const ConvGeometry& g, PixelRange pixels, const std::vector<char>& grad_reads,
                          int64_t num_slices, const FieldView& grad_offset, const FieldView& grad_mask) {
  const int64_t fields = g.offset_groups * g.taps(), slice_size = pixels.size() * fields * 3;
  const real* parts = reinterpret_cast<const real*>(grad_reads.data());
  parallel_for(0, pixels.size(), std::max<int64_t>(1, 4096 / fields), [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t pixel = pixels.begin + p, image = pixel / g.out_pixels(), within = pixel % g.out_pixels();
      const int64_t row = within / g.out_width, col = within % g.out_width;
      const auto at = [&](const FieldView& view) {
        return static_cast<real*>(view.data) + image * view.stride[0] + row * view.stride[2] +
               col * view.stride[3];
      };
      for (int64_t field = 0; field < fields; ++field) {
        real sum[3] = {};
        for (int64_t slice = 0; slice < num_slices; ++slice)
          for (int i = 0; i < 3; ++i) sum[i] += parts[slice * slice_size + (p * fields + field) * 3 + i];
        at(grad_offset)[2 * field * grad_offset.stride[1]] = sum[0];
        at(grad_offset)[(2 * field + 1) * grad_offset.stride[1]] = sum[1];
        if (grad_mask.data != nullptr) at(grad_mask)[field * grad_mask.stride[1]] = sum[2];
      }
    }
  });
}

}  // namespace

// The instruction set in use; registered as an operator.
std::string cpu_capability() { return loops().name; }

void gather(DType dtype, const ConvGeometry& geometry, PixelRange pixels, const void* input,
            const FieldView& offset, const FieldView& mask, void* columns) {
  const std::vector<char> zero_row(geometry.channels * sizeof(double), 0);
  const GatherTask task{&geometry,    input,         offset,          mask,
                        pixels.begin, pixels.size(), zero_row.data(), columns};
  parallel_for(pixels.begin, pixels.end, pixels_per_task(geometry),
               [&](int64_t begin, int64_t end) { loops().gather(dtype, task, {begin, end}); });
}

// No two threads may add to the same element of grad_input, so the work is cut into
// (image, offset group, slice of its channels): no atomics, and the same sums every run.
void scatter(DType dtype, const ConvGeometry& geometry, PixelRange pixels, const void* input,
             const FieldView& offset, const FieldView& mask, const void* grad_columns, void* grad_input,
             const FieldView& grad_offset, const FieldView& grad_mask) {
  const ConvGeometry& g = geometry;
  const bool needs_reads = grad_offset.data != nullptr;
  const int64_t first_image = pixels.begin / g.out_pixels();
  const int64_t num_images = (pixels.end - 1) / g.out_pixels() - first_image + 1;
  const int64_t threads = torch::stable::get_num_threads(), channels = g.channels / g.offset_groups;
  // Slices narrower than a few registers waste the loads of the reading positions.
  const int64_t num_slices =
      std::clamp<int64_t>((threads + num_images * g.offset_groups - 1) / (num_images * g.offset_groups), 1,
                          std::max<int64_t>(1, channels / 32));
  const int64_t slice_channels = ((channels + num_slices - 1) / num_slices + 15) / 16 * 16;

  const std::vector<char> zero_row(g.channels * sizeof(double), 0);
  const int64_t reads_bytes =
      needs_reads ? pixels.size() * g.offset_groups * g.taps() * 3 * accumulator_bytes(dtype) : 0;
  std::vector<char> grad_reads(num_slices * reads_bytes, 0);

  const int64_t num_tasks = num_images * g.offset_groups * num_slices;
  parallel_for(0, num_tasks, 1, [&](int64_t begin, int64_t end) {
    std::vector<char> sink(4 * g.channels * accumulator_bytes(dtype), 0);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slice = i % num_slices, group = i / num_slices % g.offset_groups;
      const int64_t image = first_image + i / num_slices / g.offset_groups;
      ScatterTask task{&g,
                       input,
                       offset,
                       mask,
                       pixels.begin,
                       pixels.size(),
                       zero_row.data(),
                       grad_columns,
                       grad_input,
                       nullptr,
                       sink.data(),
                       group,
                       0,
                       0};
      if (needs_reads) task.grad_reads = grad_reads.data() + slice * reads_bytes;
      task.channel_begin = group * channels + std::min(channels, slice * slice_channels);
      task.channel_end = group * channels + std::min(channels, (slice + 1) * slice_channels);
      loops().scatter(dtype, task,
                      {std::max(pixels.begin, image * g.out_pixels()),
                       std::min(pixels.end, (image + 1) * g.out_pixels())});
    }
  });

  if (!needs_reads) return;
  if (dtype == DType::kDouble) {
    write_read_gradients<double>(g, pixels, grad_reads, num_slices, grad_offset, grad_mask);
  } else {
    write_read_gradients<float>(g, pixels, grad_reads, num_slices, grad_offset, grad_mask);
  }
}

void add_bias(DType dtype, const void* bias, int64_t num_rows, int64_t num_columns, void* rows) {
  loops().add_bias(dtype, bias, num_rows, num_columns, rows);
}

void accumulate(DType dtype, const void* part, int64_t count, void* total) {
  loops().accumulate(dtype, part, count, total);
}

}  // namespace segdcn
