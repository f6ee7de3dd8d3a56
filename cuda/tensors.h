// ATen calls and layouts on stable tensors.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

namespace segdcn {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Call an operator that the stable headers of torch 2.11 do not wrap.
template <typename... Args>
Tensor call(const char* name, const char* overload, const Args&... args) {
  std::array<StableIValue, sizeof...(Args)> stack{torch::stable::detail::from(args)...};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// The elements of a vector in ascending order, and where each was; equal ones keep their order.
inline std::pair<Tensor, Tensor> sorted_stably(const Tensor& vector) {
  using torch::stable::detail::from, torch::stable::detail::to;
  std::array<StableIValue, 4> stack{from(vector), from(std::optional<bool>(true)), from(int64_t{0}),
                                    from(false)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {to<Tensor>(stack[0]), to<Tensor>(stack[1])};
}

inline Tensor permuted(const Tensor& tensor, std::vector<int64_t> order) {
  return call("aten::permute", "", tensor, order);
}

inline Tensor empty(std::vector<int64_t> size, ScalarType dtype, const Tensor& like) {
  return torch::stable::new_empty(like, size, dtype);
}

inline Tensor zeros(std::vector<int64_t> size, ScalarType dtype, const Tensor& like) {
  return torch::stable::new_zeros(like, size, dtype);
}

inline Tensor narrow(const Tensor& tensor, int64_t dim, int64_t start, int64_t length) {
  Tensor part = tensor;
  return torch::stable::narrow(part, dim, start, length);
}

// Makes a tensor's device the current one while it lives; the CPU's library has no need of it.
class CurrentDevice {
 public:
#if defined(SEGDCN_CUDA)
  explicit CurrentDevice(const Tensor& tensor) : guard_(tensor.get_device_index()) {}

 private:
  torch::stable::accelerator::DeviceGuard guard_;
#else
  explicit CurrentDevice(const Tensor&) {}
#endif
};

// ---- layouts of (B, C, H, W) and (B, C, D, H, W): NHWC stands for NDHWC too

// (B, C, ..., H, W) -> (B, ..., H, W, C), and back; views.
inline Tensor nhwc_view(const Tensor& t) {
  return t.dim() == 4 ? permuted(t, {0, 2, 3, 1}) : permuted(t, {0, 2, 3, 4, 1});
}
inline Tensor nchw_view(const Tensor& t) {
  return t.dim() == 4 ? permuted(t, {0, 3, 1, 2}) : permuted(t, {0, 4, 1, 2, 3});
}

// The tensor in NHWC memory: itself where it is channels-last.
inline Tensor nhwc(const Tensor& t) {
  return torch::stable::contiguous(t,
                                   t.dim() == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d);
}

// NHWC memory of images [first, first + count): a view where the tensor is channels-last.
inline Tensor nhwc_images(const Tensor& tensor, int64_t first, int64_t count) {
  return nhwc(narrow(tensor, 0, first, count));
}

// Whether a tensor is dense with its channels, or its columns, side by side in memory.
inline bool is_dense(const Tensor& t, bool channels_first) {
  int64_t expected = 1;
  const auto fits = [&](int64_t dim) {
    const bool placed = t.size(dim) == 1 || t.stride(dim) == expected;
    expected *= t.size(dim);
    return placed;
  };
  if (channels_first && !fits(1)) return false;
  for (int64_t dim = t.dim() - 1; dim > 1; --dim)
    if (!fits(dim)) return false;
  return (channels_first || fits(1)) && fits(0);
}
inline bool is_nhwc(const Tensor& t) { return is_dense(t, true); }
inline bool is_nchw(const Tensor& t) { return is_dense(t, false); }

// A fresh (B, C, ...) tensor: a view of NHWC memory, or NCHW.
inline Tensor empty_image(std::vector<int64_t> size, bool channels_last, ScalarType dtype,
                          const Tensor& like) {
  if (!channels_last) return empty(size, dtype, like);
  std::rotate(size.begin() + 1, size.begin() + 2, size.end());
  return nchw_view(empty(size, dtype, like));
}

}  // namespace segdcn
