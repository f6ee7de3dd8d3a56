// What the CPU's two paths share: the instruction set in use, scratch memory, and how the
// channels of backward are divided so that no two threads write the same element.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "deform_conv_cpu_loops.h"

namespace segdcn {

// The loops of the instruction set in use.
const CpuLoops& loops();

inline int64_t accumulator_bytes(DType dtype) { return dtype == DType::kDouble ? 8 : 4; }
inline int64_t element_bytes(DType dtype) {
  return dtype == DType::kHalf || dtype == DType::kBFloat16 ? 2 : accumulator_bytes(dtype);
}

// Uninitialised memory on a cache line.
class Buffer {
 public:
  explicit Buffer(int64_t bytes)
      : data_(std::aligned_alloc(64, (static_cast<size_t>(bytes) + 64) / 64 * 64)) {
    if (data_ == nullptr) throw std::bad_alloc();
  }
  char* get() const { return static_cast<char*>(data_.get()); }

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::unique_ptr<void, Free> data_;
};

// Tasks [0, count) for all threads: whoever is free takes the next. What a task computes must
// not depend on who runs it.
class Tasks {
 public:
  explicit Tasks(int64_t count) : count_(count) {}
  bool take(int64_t& task) {
    task = next_.fetch_add(1, std::memory_order_relaxed);
    return task < count_;
  }

 private:
  const int64_t count_;
  std::atomic<int64_t> next_{0};
};

// Calls worker(tasks) on as many threads as there are tasks for, but at most `most`.
template <typename Worker>
void share_tasks(int64_t count, const Worker& worker, int64_t most = INT64_MAX) {
  Tasks tasks(count);
  const int64_t threads = std::min({count, most, int64_t{torch::stable::get_num_threads()}});
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) { worker(tasks); });
}

// A zero for every channel, in the widest type: what a corner outside the map reads.
inline std::vector<char> zero_row(const ConvGeometry& g) { return std::vector<char>(g.channels * 8, 0); }

// An accumulator for every corner and channel: what corners outside the map receive.
inline std::vector<char> sink_rows(DType dtype, const ConvGeometry& g) {
  return std::vector<char>(g.corners() * g.channels * accumulator_bytes(dtype), 0);
}

// The channels of one offset group, divided into slices, and the columns of each slice.
class Slices {
 public:
  // About `wanted` slices per offset group, of columns in blocks of at most `max_block`.
  Slices(const ConvGeometry& geometry, int64_t wanted, int64_t max_block);

  int64_t per_group() const { return per_group_; }
  std::vector<ColumnBlock>& blocks(int64_t offset_group, int64_t slice) {
    return blocks_[offset_group * per_group_ + slice];
  }
  std::vector<std::vector<ColumnBlock>>& all() { return blocks_; }

 private:
  int64_t per_group_;
  std::vector<std::vector<ColumnBlock>> blocks_;
};

// Gradients of the reads, (slices, P, G, K, dims + 1): one set per slice of channels, so that threads
// add without locks. `write` sums them for the tensors that asked for them.
class ReadSums {
 public:
  ReadSums(DType dtype, const ConvGeometry& geometry, int64_t num_pixels, int64_t num_slices);

  void clear(int64_t num_pixels);
  void* slice(int64_t index) { return memory_.get() + index * slice_bytes_; }
  void write(PixelRange pixels, const FieldView& grad_offset, const FieldView& grad_mask) const;

 private:
  // Of a slice, for so many pixels.
  int64_t bytes(int64_t num_pixels) const {
    return num_pixels * geometry_.offset_groups * geometry_.taps() * (geometry_.dims + 1) *
           accumulator_bytes(dtype_);
  }

  DType dtype_;
  const ConvGeometry& geometry_;
  int64_t num_slices_, slice_bytes_;
  Buffer memory_;
};

}  // namespace segdcn
