// The serial inner loops of RoI pooling, compiled once per instruction set (see deform_conv_cpu_loops.h).
#pragma once

#include "roi_pool.h"

namespace segdcn {

// Channels [begin, end) of a class's run.
struct RoiChannels {
  int32_t cls;
  int64_t begin, end;
};

struct RoiLoops {
  const char* name;
  int64_t (*workspace_bytes)(DType, const RoiCall&, int64_t channels);

  // Pools some channels of one region.
  void (*pool)(DType, const RoiCall&, const MapView& input, int64_t roi, const RoiChannels&,
               const PooledView& output, void* workspace);

  // Of the bins that read one group of channels, for some regions in their order: adds to the gradient of the
  // input, and writes (R, bins, classes, 2) (x, y) per bin to `moved` (null: not asked for).
  void (*backward)(DType, const RoiCall&, const MapView& input, const int64_t* rois, int64_t num_rois,
                   int32_t group, const RoiChannels&, const PooledView& grad_output,
                   const MapView& grad_input, void* moved, void* workspace);
};

extern const RoiLoops kRoiLoops_baseline;
#if defined(SEGDCN_HAS_AVX2)
extern const RoiLoops kRoiLoops_avx2;
#endif
#if defined(SEGDCN_HAS_AVX512)
extern const RoiLoops kRoiLoops_avx512;
#endif

}  // namespace segdcn
