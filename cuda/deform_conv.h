// The seam between the host logic (deform_conv.cpp, once for all devices) and the inner
// loops (deform_conv_cpu.cpp, deform_conv_cuda.cu). Plain pointers and sizes only.
//
// Feature maps are NHWC. `columns` is the matrix that turns the convolution into a
// product, (groups, P, K, C/groups): for P output pixels and K taps, what each tap reads.
#pragma once

#include <cstdint>

namespace segdcn {

enum class DType { kFloat, kDouble, kHalf, kBFloat16 };

struct ConvGeometry {
  int64_t channels, height, width;              // C, H, W
  int64_t out_channels, out_height, out_width;  // O, Ho, Wo
  int64_t kernel_h, kernel_w, stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
  int64_t groups, offset_groups;

  int64_t taps() const { return kernel_h * kernel_w; }           // K
  int64_t out_pixels() const { return out_height * out_width; }  // Ho * Wo
  int64_t columns() const { return taps() * channels; }          // K * C
};

// A (B, channel, Ho, Wo) tensor of the accumulation type in any layout; null when absent.
struct FieldView {
  void* data = nullptr;
  int64_t stride[4] = {0, 0, 0, 0};
};

// Output pixels [begin, end) of a group of images, counted through image, row and column.
struct PixelRange {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Forward: columns[g, p, k, c] = mask * bilinear(input at p, k moved by offset).
void gather(DType dtype, const ConvGeometry& geometry, PixelRange pixels, const void* input,
            const FieldView& offset, const FieldView& mask, void* columns);

// Backward of gather. grad_input (accumulation type, NHWC) is added to; grad_offset and
// grad_mask are written. Any of the three may be null.
void scatter(DType dtype, const ConvGeometry& geometry, PixelRange pixels, const void* input,
             const FieldView& offset, const FieldView& mask, const void* grad_columns, void* grad_input,
             const FieldView& grad_offset, const FieldView& grad_mask);

// rows[p, o] += bias[o].
void add_bias(DType dtype, const void* bias, int64_t num_rows, int64_t num_columns, void* rows);

// total[i] += part[i]; `total` has the accumulation type.
void accumulate(DType dtype, const void* part, int64_t count, void* total);

}  // namespace segdcn
