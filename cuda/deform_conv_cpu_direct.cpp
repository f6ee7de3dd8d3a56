// The CPU's direct path: how its loops are spread over threads.
//
// Forward: each task takes a block of pixels and all output channels, gathers the block's
// columns a few hundred at a time into the second-level cache and multiplies them there.
// Backward, per chunk of pixels:
//   grad_weight   each task owns some columns and goes through all pixels
//   the others    each task owns a slice of channels (and an image), multiplies the gradient of
//                 a block's columns in the cache and scatters it from there
// No task adds to what another one owns.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "deform_conv_cpu.h"

namespace segdcn {
namespace {

using torch::stable::parallel_for;

// Packed weights, and backward's rows of gradients, take at most this each.
constexpr int64_t kPackedBytes = int64_t{16} << 20;
constexpr int64_t kChunkBytes = int64_t{8} << 20;
// Up to so many pixels the weight is used as it is: packing it would cost more than it saves.
constexpr int64_t kFewPixels = 48;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

class CpuForward : public DirectForward {
 public:
  CpuForward(DType dtype, const ConvGeometry& geometry, const WeightView& weight)
      : dtype_(dtype),
        g_(geometry),
        weight_(weight),
        tiles_(ceil_div(g_.out_channels / g_.groups, loops().width(dtype))),
        panel_bytes_(g_.columns() / g_.groups * loops().width(dtype) * accumulator_bytes(dtype)),
        tiles_per_pass_(std::clamp<int64_t>(kPackedBytes / (panel_bytes_ * g_.groups), 1, tiles_)),
        zeros_(zero_row(geometry)) {}

  void run(const Source& source, int64_t num_images, const void* bias, const DenseView& output) override {
    const Sampling from{&g_, source.input, source.offset, source.mask, zeros_.data()};
    const int64_t num_pixels = num_images * g_.out_pixels();
    if (num_pixels <= kFewPixels) {
      convolve_few(from, num_pixels, bias, output);
      return;
    }
    for (int64_t first = 0; first < tiles_; first += tiles_per_pass_) {
      pack(first);
      convolve(from, num_pixels, first, bias, output);
    }
  }

 private:
  void pack(int64_t first_tile) {
    if (packed_ && packed_tile_ == first_tile) return;
    if (!packed_) packed_.emplace(tiles_per_pass_ * g_.groups * panel_bytes_);
    packed_tile_ = first_tile;
    const int64_t count = std::min(tiles_per_pass_, tiles_ - first_tile);
    share_tasks(g_.groups * count, [&](Tasks& tasks) {
      for (int64_t i; tasks.take(i);)
        loops().pack_outputs(dtype_, g_, weight_, i / count, first_tile + i % count,
                             packed_->get() + i * panel_bytes_);
    });
  }

  void convolve_few(const Sampling& from, int64_t num_pixels, const void* bias,
                    const DenseView& output) const {
    const PixelRange pixels{0, num_pixels};
    const int64_t depth = g_.columns() / g_.groups, outputs = g_.out_channels / g_.groups, row = depth + 16;
    const int64_t group_bytes = num_pixels * row * accumulator_bytes(dtype_);
    const Buffer columns(g_.groups * group_bytes);
    const int64_t blocks = ceil_div(depth, kBlockColumns), tiles = ceil_div(outputs, 16);
    share_tasks(g_.groups * blocks, [&](Tasks& tasks) {
      const Buffer workspace(loops().workspace_bytes(dtype_, g_));
      for (int64_t i; tasks.take(i);) {
        const int64_t begin = i % blocks * kBlockColumns;
        const ColumnBlock block{i / blocks, begin, std::min(depth, begin + kBlockColumns), 0};
        loops().gather_few(dtype_, from, pixels, block, weight_.channels_last,
                           columns.get() + block.group * group_bytes, row, workspace.get());
      }
    });
    share_tasks(g_.groups * tiles, [&](Tasks& tasks) {
      for (int64_t i; tasks.take(i);) {
        const int64_t group = i / tiles, begin = i % tiles * 16;
        loops().convolve_few(dtype_, g_, pixels, columns.get() + group * group_bytes, row, weight_, group,
                             begin, std::min(outputs, begin + 16), bias, output);
      }
    });
  }

  void convolve(const Sampling& from, int64_t num_pixels, int64_t first_tile, const void* bias,
                const DenseView& output) const {
    const PackedOutputs packed{packed_->get(), first_tile, std::min(tiles_per_pass_, tiles_ - first_tile)};
    // Equal blocks, as many as make the threads finish together. Where pixels are few, threads
    // share a block and divide the output channels instead.
    const int64_t threads = torch::stable::get_num_threads();
    int64_t blocks = ceil_div(num_pixels, kBlockPixels), shares = 1;
    if (blocks >= threads) {
      blocks = ceil_div(blocks, threads) * threads;
    } else {
      shares = std::min(ceil_div(threads, blocks), packed.num_tiles);
      blocks = std::min(num_pixels, ceil_div(threads, shares));
    }
    share_tasks(blocks * shares, [&](Tasks& tasks) {
      const Buffer workspace(loops().workspace_bytes(dtype_, g_));
      for (int64_t i; tasks.take(i);) {
        const int64_t block = i / shares, share = i % shares;
        loops().convolve(dtype_, from, {num_pixels * block / blocks, num_pixels * (block + 1) / blocks},
                         packed, first_tile + packed.num_tiles * share / shares,
                         first_tile + packed.num_tiles * (share + 1) / shares, bias, output, workspace.get());
      }
    });
  }

  const DType dtype_;
  const ConvGeometry& g_;
  const WeightView weight_;
  const int64_t tiles_, panel_bytes_, tiles_per_pass_;
  const std::vector<char> zeros_;
  std::optional<Buffer> packed_;
  int64_t packed_tile_ = -1;
};

class CpuBackward : public DirectBackward {
 public:
  CpuBackward(DType dtype, const ConvGeometry& geometry, const WeightView& weight, int64_t max_images)
      : dtype_(dtype),
        g_(geometry),
        weight_(weight),
        threads_(torch::stable::get_num_threads()),
        row_length_(geometry.out_channels + 16),
        chunk_(pixels_per_chunk(max_images)),
        slices_(geometry, wanted_slices(), kBlockColumns),
        blocks_per_pass_(place_blocks()),
        rows_(chunk_ * row_length_ * accumulator_bytes(dtype)),
        zeros_(zero_row(geometry)) {}

  void run(const Source& source, int64_t num_images, const DenseView& grad_output,
           const GradientTargets& targets) override {
    const Sampling from{&g_, source.input, source.offset, source.mask, zeros_.data()};
    const int64_t num_pixels = num_images * g_.out_pixels(), count = ceil_div(num_pixels, chunk_);
    const bool whole_images = chunk_ % g_.out_pixels() == 0;
    for (int64_t i = 0; i < count; ++i) {
      const PixelRange pixels = whole_images
                                    ? PixelRange{i * chunk_, std::min(num_pixels, (i + 1) * chunk_)}
                                    : PixelRange{num_pixels * i / count, num_pixels * (i + 1) / count};
      read_rows(grad_output, pixels);
      if (targets.weight != nullptr) weight_gradient(from, pixels, targets.weight);
      if (targets.input != nullptr || targets.offset.data != nullptr) scatter(from, pixels, targets);
    }
  }

 private:
  // Whole images where they fit, and then as many as give every thread its own.
  int64_t pixels_per_chunk(int64_t max_images) const {
    const int64_t reads = g_.offset_groups * g_.taps() * (g_.dims + 1) * std::min<int64_t>(threads_, 8);
    const int64_t pixels =
        std::max(4 * kBlockPixels, kChunkBytes / ((row_length_ + reads) * accumulator_bytes(dtype_)));
    const int64_t images = std::min(max_images, pixels / g_.out_pixels());
    if (images == 0) return pixels;
    return (images < threads_ ? images : images / threads_ * threads_) * g_.out_pixels();
  }

  int64_t wanted_slices() const {
    const int64_t images = std::max<int64_t>(1, chunk_ / g_.out_pixels());
    return ceil_div(threads_, images * g_.offset_groups);
  }

  // Gives every block its place in the packed weight. Where the weight is too large for one
  // pass, the blocks of each slice take turns in the same memory. Returns the blocks of a
  // slice per pass.
  int64_t place_blocks() {
    const int64_t width = loops().width(dtype_), num_slices = static_cast<int64_t>(slices_.all().size());
    int64_t most = 0, widest = 0;
    for (const auto& blocks : slices_.all()) {
      most = std::max(most, static_cast<int64_t>(blocks.size()));
      for (const ColumnBlock& block : blocks) widest = std::max(widest, block.size());
    }
    block_elements_ = ceil_div(widest, width) * width * (g_.out_channels / g_.groups);
    const int64_t fit = kPackedBytes / (block_elements_ * num_slices * accumulator_bytes(dtype_));
    const int64_t per_pass = std::clamp<int64_t>(fit, 1, most);
    for (int64_t slice = 0; slice < num_slices; ++slice)
      for (size_t i = 0; i < slices_.all()[slice].size(); ++i)
        slices_.all()[slice][i].packed =
            (slice * per_pass + static_cast<int64_t>(i) % per_pass) * block_elements_;
    passes_ = ceil_div(most, per_pass);
    return per_pass;
  }

  // The blocks of a slice that a pass works on.
  std::pair<const ColumnBlock*, int64_t> blocks_of(const std::vector<ColumnBlock>& all, int64_t pass) const {
    const int64_t count = static_cast<int64_t>(all.size()), begin = std::min(count, pass * blocks_per_pass_);
    return {all.data() + begin, std::min(blocks_per_pass_, count - begin)};
  }

  void pack(int64_t pass) {
    if (packed_pass_ == pass) return;
    const int64_t num_slices = static_cast<int64_t>(slices_.all().size());
    const int64_t element = accumulator_bytes(dtype_);
    if (!packed_) packed_.emplace(num_slices * blocks_per_pass_ * block_elements_ * element);
    share_tasks(num_slices * blocks_per_pass_, [&](Tasks& tasks) {
      for (int64_t i; tasks.take(i);) {
        const auto [blocks, count] = blocks_of(slices_.all()[i / blocks_per_pass_], pass);
        const int64_t which = i % blocks_per_pass_;
        if (which < count)
          loops().pack_columns(dtype_, g_, weight_, blocks[which],
                               packed_->get() + blocks[which].packed * element);
      }
    });
    packed_pass_ = pass;
  }

  void read_rows(const DenseView& grad_output, PixelRange pixels) {
    const int64_t bytes = row_length_ * accumulator_bytes(dtype_);
    parallel_for(pixels.begin, pixels.end, std::max<int64_t>(16, 65536 / bytes),
                 [&](int64_t begin, int64_t end) {
                   loops().read_rows(dtype_, g_, grad_output, {begin, end},
                                     rows_.get() + (begin - pixels.begin) * bytes, row_length_);
                 });
  }

  void weight_gradient(const Sampling& from, PixelRange pixels, void* grad_weight) {
    // A few equal shares of the columns per thread, in blocks that the cache holds.
    const int64_t depth = g_.columns() / g_.groups, threads = ceil_div(threads_, g_.groups);
    const int64_t shares = std::max(ceil_div(depth, kBlockColumns), std::min(3 * threads, depth / 64));
    const int64_t even = ceil_div(std::max<int64_t>(shares, 1), threads) * threads;
    const int64_t size = std::min(kBlockColumns, ceil_div(ceil_div(depth, even), 16) * 16);
    const int64_t per_group = ceil_div(depth, size);
    share_tasks(g_.groups * per_group, [&](Tasks& tasks) {
      const Buffer workspace(loops().workspace_bytes(dtype_, g_));
      for (int64_t i; tasks.take(i);) {
        const int64_t first = i % per_group * size;
        const ColumnBlock block{i / per_group, first, std::min(depth, first + size), 0};
        loops().weight_gradient(dtype_, from, pixels, rows_.get(), row_length_, block, grad_weight,
                                seen_pixels_, workspace.get());
      }
    });
    seen_pixels_ = true;
  }

  void scatter(const Sampling& from, PixelRange pixels, const GradientTargets& targets) {
    const bool needs_reads = targets.offset.data != nullptr;
    if (needs_reads) {
      if (!reads_) reads_.emplace(dtype_, g_, chunk_, slices_.per_group());
      reads_->clear(pixels.size());
    }
    const int64_t first_image = pixels.begin / g_.out_pixels(), per_group = slices_.per_group();
    const int64_t num_images = (pixels.end - 1) / g_.out_pixels() - first_image + 1;
    for (int64_t pass = 0; pass < passes_; ++pass) {
      pack(pass);
      share_tasks(num_images * g_.offset_groups * per_group, [&](Tasks& tasks) {
        const Buffer workspace(loops().workspace_bytes(dtype_, g_));
        std::vector<char> sink = sink_rows(dtype_, g_);
        for (int64_t i; tasks.take(i);) {
          const int64_t slice = i % per_group, group = i / per_group % g_.offset_groups;
          const int64_t image = first_image + i / per_group / g_.offset_groups;
          const auto [blocks, count] = blocks_of(slices_.blocks(group, slice), pass);
          const ReadGradients to{targets.input, needs_reads ? reads_->slice(slice) : nullptr, sink.data()};
          loops().product_scatter(dtype_, from, pixels,
                                  {std::max(pixels.begin, image * g_.out_pixels()),
                                   std::min(pixels.end, (image + 1) * g_.out_pixels())},
                                  rows_.get(), row_length_, packed_->get(), blocks, count, to,
                                  workspace.get());
        }
      });
    }
    if (needs_reads) reads_->write(pixels, targets.offset, targets.mask);
  }

  const DType dtype_;
  const ConvGeometry& g_;
  const WeightView weight_;
  const int64_t threads_, row_length_, chunk_;
  Slices slices_;
  int64_t block_elements_ = 0, passes_ = 0;
  const int64_t blocks_per_pass_;
  const Buffer rows_;
  const std::vector<char> zeros_;
  std::optional<Buffer> packed_;
  std::optional<ReadSums> reads_;
  int64_t packed_pass_ = -1;
  bool seen_pixels_ = false;  // the weight's gradient has been written once
};

// Half precision takes the path of a vendor's product where the processor multiplies it fast.
// SEGDCN_CPU_PATH=direct|columns asks for one of them, to compare and to test them.
enum class Path { kAutomatic, kDirect, kColumns };

Path asked_path() {
  const char* asked = std::getenv("SEGDCN_CPU_PATH");
  if (asked == nullptr || *asked == '\0') return Path::kAutomatic;
  if (std::strcmp(asked, "direct") == 0) return Path::kDirect;
  if (std::strcmp(asked, "columns") == 0) return Path::kColumns;
  STD_TORCH_CHECK(false, "SEGDCN_CPU_PATH is ", asked, ", but must be direct or columns");
}

bool multiplies_bfloat16() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

}  // namespace

bool computes_directly(DType dtype) {
  static const Path path = asked_path();
  if (path != Path::kAutomatic) return path == Path::kDirect;
  static const bool vendor = multiplies_bfloat16();
  return dtype != DType::kBFloat16 || !vendor;
}

std::unique_ptr<DirectForward> direct_forward(DType dtype, const ConvGeometry& geometry,
                                              const WeightView& weight) {
  return std::make_unique<CpuForward>(dtype, geometry, weight);
}

std::unique_ptr<DirectBackward> direct_backward(DType dtype, const ConvGeometry& geometry,
                                                const WeightView& weight, int64_t max_images) {
  return std::make_unique<CpuBackward>(dtype, geometry, weight, max_images);
}

}  // namespace segdcn
