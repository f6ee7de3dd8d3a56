// The serial inner loops of the CPU, compiled once per instruction set; deform_conv_cpu.cpp
// picks one at run time and spreads the work over threads.
//
// These files include nothing but <cstdint>, <cmath> and intrinsics: an inline function of
// the standard library, compiled here with AVX-512 and merged by the linker with its twin
// elsewhere, would crash on older processors.
#pragma once

#include "deform_conv.h"

namespace segdcn {

// One call's constant part, and scratch memory of the calling thread.
struct GatherTask {
  const ConvGeometry* geometry;
  const void* input;
  FieldView offset, mask;
  int64_t first_pixel;   // of the chunk: columns start there
  int64_t num_pixels;    // of the chunk: the distance between groups in columns
  const void* zero_row;  // C zeros: what a corner outside the map reads
  void* columns;
};

struct ScatterTask {
  const ConvGeometry* geometry;
  const void* input;
  FieldView offset, mask;
  int64_t first_pixel, num_pixels;
  const void* zero_row;
  const void* grad_columns;
  void* grad_input;  // null: not needed
  void* grad_reads;  // (P, G, K, 3): dy, dx and value of each read; null: not needed
  void* sink;        // 4 * C accumulators: where gradients of corners outside the map go
  int64_t offset_group, channel_begin, channel_end;  // this task's share, inside one group
};

struct CpuLoops {
  const char* name;
  void (*gather)(DType, const GatherTask&, PixelRange);
  void (*scatter)(DType, const ScatterTask&, PixelRange);
  void (*add_bias)(DType, const void* bias, int64_t num_rows, int64_t num_columns, void* rows);
  void (*accumulate)(DType, const void* part, int64_t count, void* total);
};

// Which of them exist is decided by cuda/build.py.
extern const CpuLoops kLoops_baseline;
#if defined(SEGDCN_HAS_AVX2)
extern const CpuLoops kLoops_avx2;
#endif
#if defined(SEGDCN_HAS_AVX512)
extern const CpuLoops kLoops_avx512;
#endif

}  // namespace segdcn
