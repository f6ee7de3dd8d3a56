// The serial inner loops of the CPU, compiled once per instruction set. Who calls them picks
// one set at run time and spreads the work over threads (deform_conv_cpu.cpp).
//
// Files that are compiled per instruction set include nothing but <cstdint>, <cmath> and
// intrinsics: an inline function of the standard library, compiled here with AVX-512 and
// merged by the linker with its twin elsewhere, would crash on older processors.
#pragma once

#include "deform_conv.h"

namespace segdcn {

// Pixels of a block: their reading positions stay in the first-level cache, their columns in
// the second-level one.
constexpr int64_t kBlockPixels = 112;
// Columns that the direct path gathers at a time, and the row length of that memory: no power
// of two, or the rows of a tile would compete for the same few cache lines.
constexpr int64_t kBlockColumns = 256;
constexpr int64_t kBlockRow = kBlockColumns + 16;

// What is read, and where: the same during a whole call.
struct Sampling {
  const ConvGeometry* geometry;
  const void* input;  // NHWC
  FieldView offset, mask;
  const void* zero_row;  // C zeros: what a corner outside the map reads
};

// Where gradients go. Any pointer may be null: not needed.
struct ReadGradients {
  void* input;  // accumulation type, NHWC; added to
  void* reads;  // (P, G, K, dims + 1) of the chunk: (dz,) dy, dx and value of each read; added to
  void* sink;   // corners * C accumulators: what a corner outside the map receives
};

// Columns [begin, end) of a weight group, counted tap * C/groups + channel.
struct ColumnBlock {
  int64_t group, begin, end;
  int64_t packed;  // direct path: where its packed weight begins, in elements
  int64_t size() const { return end - begin; }
};

// Packed weight panels (pack_outputs) of some tiles of output channels, for every group.
struct PackedOutputs {
  const void* data;
  int64_t first_tile, num_tiles;  // per group
};

struct CpuLoops {
  const char* name;

  // Columns in memory, for a vendor's product.
  void (*gather)(DType, const Sampling&, PixelRange chunk, PixelRange pixels, void* columns, void* workspace);
  void (*scatter)(DType, const Sampling&, PixelRange chunk, PixelRange pixels, const void* grad_columns,
                  const ColumnBlock* blocks, int64_t num_blocks, const ReadGradients&, void* workspace);
  void (*add_bias)(DType, const void* bias, int64_t num_rows, int64_t num_columns, void* rows);
  void (*accumulate)(DType, const void* part, int64_t count, void* total);

  // The direct path, which multiplies as it gathers. `width`: output channels, or columns,
  // of one packed panel.
  int64_t (*width)(DType);
  int64_t (*workspace_bytes)(DType, const ConvGeometry&);
  void (*pack_outputs)(DType, const ConvGeometry&, const WeightView&, int64_t group, int64_t tile,
                       void* panel);
  void (*pack_columns)(DType, const ConvGeometry&, const WeightView&, const ColumnBlock&, void* panels);
  void (*convolve)(DType, const Sampling&, PixelRange pixels, const PackedOutputs&, int64_t first_tile,
                   int64_t last_tile, const void* bias, const DenseView& output, void* workspace);
  // The same for at most kBlockPixels pixels, from the weight as it is: columns (P, row) of a
  // group in the weight's order of memory, then some of the output channels of that group.
  void (*gather_few)(DType, const Sampling&, PixelRange pixels, const ColumnBlock&, bool channels_last,
                     void* columns, int64_t row, void* workspace);
  void (*convolve_few)(DType, const ConvGeometry&, PixelRange pixels, const void* columns, int64_t row,
                       const WeightView&, int64_t group, int64_t begin, int64_t end, const void* bias,
                       const DenseView& output);
  void (*read_rows)(DType, const ConvGeometry&, const DenseView& grad_output, PixelRange pixels, void* rows,
                    int64_t row_length);
  void (*weight_gradient)(DType, const Sampling&, PixelRange pixels, const void* rows, int64_t row_length,
                          const ColumnBlock&, void* grad_weight, bool add, void* workspace);
  void (*product_scatter)(DType, const Sampling&, PixelRange chunk, PixelRange pixels, const void* rows,
                          int64_t row_length, const void* packed, const ColumnBlock* blocks,
                          int64_t num_blocks, const ReadGradients&, void* workspace);
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
