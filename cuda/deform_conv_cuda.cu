// Deformable convolution on NVIDIA GPUs: the kernels of deform_conv_kernels.h, launched.
#include "launch.cuh"
//
#include "deform_conv_device.h"

namespace segdcn {

// Columns that stay in a second-level cache of 50 MB and give the matrix product enough rows to fill a large
// GPU; together with the copies of images at most 128 MiB.
Limits limits() { return {int64_t{36} << 20, int64_t{48} << 20}; }

}  // namespace segdcn
