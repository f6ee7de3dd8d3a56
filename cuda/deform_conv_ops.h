// The operators as deform_conv.cpp defines them and bindings.cpp registers them.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace segdcn {

using torch::stable::Tensor;

// In as many dimensions as the input has: deform_conv2d and deform_conv3d.
Tensor deform_conv(const Tensor& input, const Tensor& weight, const Tensor& offset,
                   const std::optional<Tensor>& mask, const std::optional<Tensor>& bias,
                   const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                   const std::vector<int64_t>& dilation, int64_t groups, int64_t offset_groups,
                   bool channels_last, bool allow_tf32);

// (grad_input, grad_weight, grad_offset, grad_mask); one that is not needed has no elements.
std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& weight, const Tensor& offset,
    const std::optional<Tensor>& mask, const std::vector<int64_t>& stride,
    const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups,
    int64_t offset_groups, bool channels_last, bool allow_tf32, bool need_input, bool need_weight,
    bool need_offset, bool deterministic);

}  // namespace segdcn
