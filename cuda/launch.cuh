// Launching kernel bodies: on the current stream of the current device, every launch checked.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cstdint>

namespace segdcn {
namespace {

constexpr int kThreads = 256;

inline void check(cudaError_t status, const char* what) {
  STD_TORCH_CHECK(status == cudaSuccess, "segdcn: ", what, " failed: ", cudaGetErrorString(status));
}

inline cudaStream_t current_stream() {
  int device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

template <typename Body>
__global__ void __launch_bounds__(kThreads) each(int64_t items, int lanes, const Body body) {
  const int64_t step = int64_t{gridDim.x} * (kThreads / lanes);
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  for (int64_t item = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / lanes; item < items; item += step)
    body(item, lane, lanes);
}

// The lanes of an item lie in one warp and go through its items together, so that they can be summed.
template <typename Body>
__global__ void __launch_bounds__(kThreads) each_summed(int64_t items, int lanes, const Body body) {
  const int64_t step = int64_t{gridDim.x} * (kThreads / lanes);
  const int lane = static_cast<int>(threadIdx.x) % lanes;
  const unsigned first = (threadIdx.x % 32) / lanes * lanes;
  const unsigned members = lanes == 32 ? 0xffffffffu : ((1u << lanes) - 1) << first;
  for (int64_t item = (int64_t{blockIdx.x} * kThreads + threadIdx.x) / lanes; item < items; item += step) {
    auto share = body(item, lane, lanes);
    for (int distance = lanes / 2; distance > 0; distance /= 2)
      share.add(share.exchanged([&](auto value) { return __shfl_xor_sync(members, value, distance); }));
    if (lane == 0) body.finish(item, share);
  }
}

inline unsigned blocks_for(int64_t items, int lanes) {
  const int64_t per_block = kThreads / lanes;
  return static_cast<unsigned>(std::min<int64_t>((items + per_block - 1) / per_block, 0x7fffffff));
}

// Calls body(item, lane, lanes) for every item and lane; `lanes` is a power of two, at most 32.
template <typename Body>
void launch(const char* name, int64_t items, int lanes, const Body& body) {
  if (items == 0) return;
  each<<<blocks_for(items, lanes), kThreads, 0, current_stream()>>>(items, lanes, body);
  check(cudaGetLastError(), name);
}

// Likewise, then body.finish(item, sum of what the calls for its lanes returned).
template <typename Body>
void launch_summed(const char* name, int64_t items, int lanes, const Body& body) {
  if (items == 0) return;
  each_summed<<<blocks_for(items, lanes), kThreads, 0, current_stream()>>>(items, lanes, body);
  check(cudaGetLastError(), name);
}

}  // namespace
}  // namespace segdcn
