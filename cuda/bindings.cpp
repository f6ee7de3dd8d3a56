// Operator schemas and their registration. The CPU library defines them; the CUDA library,
// loaded after it, only adds its kernels. Autograd, fake kernels and autocast are registered
// from Python (segdcn/ops), which needs no C++ and so no second ABI.
#include <torch/csrc/stable/library.h>

#include <string>

#include "deform_conv_ops.h"
#include "roi_pool_ops.h"

#if !defined(SEGDCN_CUDA)
namespace segdcn {
std::string cpu_capability();  // deform_conv_cpu.cpp
}

STABLE_TORCH_LIBRARY(segdcn, library) {
  // offset (B, 2*G*K, Ho, Wo), in three dimensions (B, 3*G*K, Do, Ho, Wo), and mask (B, G*K, ...) have the
  // accumulation type (float32, float64 for float64 input) or half precision. `channels_last` is the layout
  // of the results. `allow_tf32` and `deterministic` (sums in a fixed order) are torch's settings, which
  // these libraries cannot ask for; the CPU multiplies exactly and in a fixed order anyway.
  for (const std::string name : {"deform_conv2d", "deform_conv3d"}) {
    const std::string forward =
        name +
        "(Tensor input, Tensor weight, Tensor offset, Tensor? mask, Tensor? bias, "
        "int[] stride, int[] padding, int[] dilation, int groups, int offset_groups, bool channels_last, "
        "bool allow_tf32) -> Tensor";
    const std::string backward =
        name +
        "_backward(Tensor grad_output, Tensor input, Tensor weight, Tensor offset, Tensor? mask, "
        "int[] stride, int[] padding, int[] dilation, int groups, int offset_groups, bool channels_last, "
        "bool allow_tf32, bool need_input, bool need_weight, bool need_offset, bool deterministic) -> "
        "(Tensor, "
        "Tensor, Tensor, Tensor)";
    library.def(forward.c_str());
    library.def(backward.c_str());
  }
  // rois (R, 5), offset (R, 2, ph, pw), or (R, 2 * classes, part_h, part_w): any floating dtype.
  library.def(
      "deform_roi_pool(Tensor input, Tensor rois, Tensor? offset, int[] output_size, float spatial_scale, "
      "int sampling_ratio, float gamma, bool channels_last) -> Tensor");
  library.def(
      "deform_roi_pool_backward(Tensor grad_output, Tensor input, Tensor rois, Tensor? offset, "
      "int[] output_size, float spatial_scale, int sampling_ratio, float gamma, bool channels_last, "
      "bool need_input, bool need_offset, bool deterministic) -> (Tensor, Tensor)");
  library.def(
      "deform_psroi_pool(Tensor input, Tensor rois, Tensor? offset, int output_dim, int group_size, "
      "int[] output_size, int[] part_size, int samples_per_part, float trans_std, float spatial_scale, "
      "bool channels_last) -> Tensor");
  library.def(
      "deform_psroi_pool_backward(Tensor grad_output, Tensor input, Tensor rois, Tensor? offset, "
      "int output_dim, int group_size, int[] output_size, int[] part_size, int samples_per_part, "
      "float trans_std, float spatial_scale, bool channels_last, bool need_input, bool need_offset, "
      "bool deterministic) -> (Tensor, Tensor)");
  library.def("cpu_capability() -> str");  // the instruction set in use
}

// No tensor argument tells a device, so it is registered for all.
STABLE_TORCH_LIBRARY_IMPL(segdcn, CompositeExplicitAutograd, library) {
  library.impl("cpu_capability", TORCH_BOX(&segdcn::cpu_capability));
}
#define SEGDCN_KEY CPU
#else
#define SEGDCN_KEY CUDA
#endif

STABLE_TORCH_LIBRARY_IMPL(segdcn, SEGDCN_KEY, library) {
  library.impl("deform_conv2d", TORCH_BOX(&segdcn::deform_conv));
  library.impl("deform_conv2d_backward", TORCH_BOX(&segdcn::deform_conv_backward));
  library.impl("deform_conv3d", TORCH_BOX(&segdcn::deform_conv));
  library.impl("deform_conv3d_backward", TORCH_BOX(&segdcn::deform_conv_backward));
  library.impl("deform_roi_pool", TORCH_BOX(&segdcn::deform_roi_pool));
  library.impl("deform_roi_pool_backward", TORCH_BOX(&segdcn::deform_roi_pool_backward));
  library.impl("deform_psroi_pool", TORCH_BOX(&segdcn::deform_psroi_pool));
  library.impl("deform_psroi_pool_backward", TORCH_BOX(&segdcn::deform_psroi_pool_backward));
}
