// Deformable convolution on NVIDIA GPUs: the kernels of deform_conv_kernels.h, launched.
#include "launch.cuh"
//
#include "deform_conv_device.h"

namespace segdcn {

// 40 MiB of columns are 4,551 pixels of 512 channels in bfloat16: enough rows for a product to fill a large
// GPU. Together with the copies of images less than 128 MiB.
Limits limits() { return {int64_t{40} << 20, int64_t{48} << 20}; }

}  // namespace segdcn
