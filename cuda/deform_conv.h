// The seam between the host logic (deform_conv*.cpp without a device in its name, once for
// all devices) and what each device does itself. Plain pointers and sizes only.
//
// A device offers one or both of two paths:
//   columns   gather into a matrix, a vendor's product, and back (deform_conv_columns.cpp)
//   direct    multiply what is gathered at once, with a product of our own
//
// Feature maps are NHWC, in three dimensions NDHWC, which is meant too where NHWC is said. `columns` is the
// matrix that turns the convolution into a product, (groups, P, K, C/groups): for P output pixels and K taps,
// what each tap reads.
#pragma once

#include <cstdint>
#include <memory>

namespace segdcn {

enum class DType { kFloat, kDouble, kHalf, kBFloat16 };

// In two dimensions there is one plane: depth, out_depth, kernel_d, stride_d and dilation_d are 1, padding_d
// is 0.
struct ConvGeometry {
  int dims;                                                // 2 or 3
  int64_t channels, depth, height, width;                  // C, D, H, W
  int64_t out_channels, out_depth, out_height, out_width;  // O, Do, Ho, Wo
  int64_t kernel_d, kernel_h, kernel_w, stride_d, stride_h, stride_w;
  int64_t padding_d, padding_h, padding_w, dilation_d, dilation_h, dilation_w;
  int64_t groups, offset_groups;

  int64_t taps() const { return kernel_d * kernel_h * kernel_w; }            // K
  int64_t pixels() const { return depth * height * width; }                  // D * H * W
  int64_t out_pixels() const { return out_depth * out_height * out_width; }  // Do * Ho * Wo
  int64_t columns() const { return taps() * channels; }                      // K * C
  int64_t corners() const { return int64_t{1} << dims; }                     // of a read
};

// A (B, channel, (Do,) Ho, Wo) tensor of the accumulation type in any layout; null when absent.
struct FieldView {
  void* data = nullptr;
  int64_t stride[5] = {0, 0, 0, 0, 0};  // of image, channel, plane, row, column

  int64_t element(int64_t image, int64_t plane, int64_t row, int64_t col) const {
    return image * stride[0] + plane * stride[2] + row * stride[3] + col * stride[4];
  }
};

// A dense (B, O, (Do,) Ho, Wo) tensor, NHWC or NCHW.
struct DenseView {
  void* data;
  bool channels_last;
};

// A dense weight (O, C/groups, (kd,) kh, kw): in memory (O, (kd,) kh, kw, C/groups) if channels_last,
// or as its dimensions say.
struct WeightView {
  const void* data;
  bool channels_last;
};

// Output pixels [begin, end) of a group of images, counted through image, plane, row and column.
struct PixelRange {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};

// Where images are read: NHWC memory of a group of images, and its offsets and masks.
struct Source {
  const void* input;
  FieldView offset, mask;
};

// How much memory, at most, the copies and buffers of a call should take.
struct Limits {
  int64_t columns, images;  // bytes: of columns, and of copied images with their float32 sums
};
Limits limits();

// ---------------------------------------------------------------- columns

// Forward: columns[g, p, k, c] = mask * read(input at p, k moved by offset).
void gather(DType dtype, const ConvGeometry& geometry, PixelRange pixels, const Source& source,
            void* columns);

// Backward of gather. grad_input (accumulation type, NHWC) is added to; grad_offset and
// grad_mask are written. Any of the three may be null.
void scatter(DType dtype, const ConvGeometry& geometry, PixelRange pixels, const Source& source,
             const void* grad_columns, void* grad_input, const FieldView& grad_offset,
             const FieldView& grad_mask);

// rows[p, o] += bias[o].
void add_bias(DType dtype, const void* bias, int64_t num_rows, int64_t num_columns, void* rows);

// total[i] += part[i]; `total` has the accumulation type. For products that cannot add.
void accumulate(DType dtype, const void* part, int64_t count, void* total);

// Whether `scatter` adds to grad_input in the same order in every run. Where it does not, the same sums are
// made in a fixed order on request: corner_keys, a stable sort of the keys, add_sorted.
bool scatters_in_order();

// For corner i of read r (pixel, then offset group, then tap), at corners * r + i: which element of the map
// it touches (offset group, then pixel of the group of images), and its weight, of the accumulation type.
void corner_keys(DType dtype, const ConvGeometry& geometry, PixelRange pixels, const Source& source,
                 int64_t num_images, int64_t* keys, void* weights);

struct SortedCorners {
  const int64_t* keys;   // sorted
  const int64_t* order;  // order[i]: the corner that came i-th
  const void* weights;   // by corner
};

// Backward of gather for the input alone, in a fixed order; added to grad_input.
void add_sorted(DType dtype, const ConvGeometry& geometry, PixelRange pixels, const Source& source,
                int64_t num_images, const SortedCorners& corners, const void* grad_columns, void* grad_input);

// ---------------------------------------------------------------- direct

// Whether this device takes the direct path for a dtype.
bool computes_directly(DType dtype);

// One call's forward, for one group of images after the other. Keeps the packed weight.
class DirectForward {
 public:
  virtual ~DirectForward() = default;
  // output = convolution of all images of the source + bias (null: none).
  virtual void run(const Source& source, int64_t num_images, const void* bias, const DenseView& output) = 0;
};
std::unique_ptr<DirectForward> direct_forward(DType dtype, const ConvGeometry& geometry,
                                              const WeightView& weight);

// What the gradients of one group of images go to. grad_input (accumulation type, NHWC) is
// added to, grad_offset and grad_mask are written. grad_weight (accumulation type,
// (O, K, C/groups)) is written for the first group of a direct call, and added to otherwise.
// Any of them may be null.
struct GradientTargets {
  void* input;
  void* weight;
  FieldView offset, mask;
};
class DirectBackward {
 public:
  virtual ~DirectBackward() = default;
  // At most `max_images` of direct_backward at a time.
  virtual void run(const Source& source, int64_t num_images, const DenseView& grad_output,
                   const GradientTargets& targets) = 0;
};
std::unique_ptr<DirectBackward> direct_backward(DType dtype, const ConvGeometry& geometry,
                                                const WeightView& weight, int64_t max_images);

}  // namespace segdcn
