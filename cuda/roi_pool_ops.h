// The operators as roi_pool.cpp defines them and bindings.cpp registers them.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>
#include <vector>

namespace segdcn {

using torch::stable::Tensor;

Tensor deform_roi_pool(const Tensor& input, const Tensor& rois, const std::optional<Tensor>& offset,
                       const std::vector<int64_t>& output_size, double spatial_scale, int64_t sampling_ratio,
                       double gamma, bool channels_last);

// (grad_input, grad_offset); one that is not needed has no elements.
std::tuple<Tensor, Tensor> deform_roi_pool_backward(const Tensor& grad_output, const Tensor& input,
                                                    const Tensor& rois, const std::optional<Tensor>& offset,
                                                    const std::vector<int64_t>& output_size,
                                                    double spatial_scale, int64_t sampling_ratio,
                                                    double gamma, bool channels_last, bool need_input,
                                                    bool need_offset, bool deterministic);

Tensor deform_psroi_pool(const Tensor& input, const Tensor& rois, const std::optional<Tensor>& offset,
                         int64_t output_dim, int64_t group_size, const std::vector<int64_t>& output_size,
                         const std::vector<int64_t>& part_size, int64_t samples_per_part, double trans_std,
                         double spatial_scale, bool channels_last);

std::tuple<Tensor, Tensor> deform_psroi_pool_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& rois, const std::optional<Tensor>& offset,
    int64_t output_dim, int64_t group_size, const std::vector<int64_t>& output_size,
    const std::vector<int64_t>& part_size, int64_t samples_per_part, double trans_std, double spatial_scale,
    bool channels_last, bool need_input, bool need_offset, bool deterministic);

}  // namespace segdcn
