// RoI pooling on NVIDIA GPUs: the kernels of roi_pool_kernels.h, launched.
#include "launch.cuh"
//
#include "roi_pool_device.h"
