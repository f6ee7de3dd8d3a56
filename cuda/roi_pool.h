// The seam between the host logic of RoI pooling (roi_pool.cpp, once for all devices) and what each device
// does itself. Plain pointers and sizes only.
#pragma once

#include "deform_conv.h"  // DType
#include "roi_sampling.h"

namespace torch::stable {
class Tensor;
}

namespace segdcn {

// Feature maps in memory, in elements. Of channel group g, class c and channel i of its run, pixel p of image
// b is
//   b * image + p * pixel + g * group + (c * run + i) * channel
struct MapView {
  void* data = nullptr;
  int64_t image = 0, pixel = 0, group = 0, channel = 0;
};

// (R, channels, bins) in memory: rows have a bin's channels side by side, planes a channel's bins.
struct PooledView {
  void* data = nullptr;
  bool rows = true;
};

// Where backward's results go, in the accumulation type; null where not asked for.
struct RoiGradients {
  MapView input;           // added to
  void* offset = nullptr;  // (R, 2 * classes, part_h, part_w); written
};

// Whether this device reads maps, and writes gradients, whose channels do not lie side by side, and does so
// faster than it could rearrange them; and whether it reads and writes pooled planes.
bool pools_strided(const RoiCall& call, int64_t map_elements);
bool pools_planes();

void pool(DType dtype, const RoiCall& call, const MapView& input, const PooledView& output);
void pool_backward(DType dtype, const RoiCall& call, const MapView& input, const PooledView& grad_output,
                   const RoiGradients& gradients, bool deterministic, const torch::stable::Tensor& like);

}  // namespace segdcn
