// The CPU's side of roi_pool.h: division of RoI pooling among threads, without atomics and in a fixed order.
//
// Forward, a task is a region and some of its channels. Backward, a task owns an image and some channels of
// one group, and goes through the regions of that image: no two tasks add to the same element.
#include <cstring>
#include <string>
#include <vector>

#include "deform_conv_cpu.h"
#include "roi_pool_cpu_loops.h"

namespace segdcn {
namespace {

const RoiLoops& roi_loops() {
#if defined(SEGDCN_HAS_AVX512)
  if (std::strcmp(loops().name, kRoiLoops_avx512.name) == 0) return kRoiLoops_avx512;
#endif
#if defined(SEGDCN_HAS_AVX2)
  if (std::strcmp(loops().name, kRoiLoops_avx2.name) == 0) return kRoiLoops_avx2;
#endif
  return kRoiLoops_baseline;
}

// The run of every class in `wanted` slices or fewer: narrower ones than these would work out positions
// more often than they use them.
constexpr int64_t kNarrowest = 64;
std::vector<RoiChannels> slices(const RoiCall& call, int64_t wanted) {
  const int64_t most = std::max<int64_t>(1, call.run / kNarrowest);
  const int64_t count = std::clamp<int64_t>(wanted, 1, most);
  const int64_t size = ((call.run + count - 1) / count + kNarrowest - 1) / kNarrowest * kNarrowest;
  std::vector<RoiChannels> result;
  for (int32_t cls = 0; cls < call.classes; ++cls)
    for (int64_t begin = 0; begin < call.run; begin += size)
      result.push_back({cls, begin, std::min(call.run, begin + size)});
  return result;
}

template <typename real>
std::vector<std::vector<int64_t>> regions_of_images(const RoiCall& call) {
  std::vector<std::vector<int64_t>> regions(call.batch);
  for (int64_t roi = 0; roi < call.num_rois; ++roi) {
    const int64_t image = roi_box<real>(call, roi).image;
    if (image >= 0) regions[image].push_back(roi);
  }
  return regions;
}

// grad_offset: the sum over slices of channels and over the bins that a part moves.
template <typename real>
void sum_parts(const RoiCall& call, const real* moved, int64_t num_slices, real* grad_offset) {
  const int64_t parts = int64_t{call.part_h} * call.part_w,
                whole = call.num_rois * call.bins() * call.classes * 2;
  const int64_t of_roi = call.classes * 2 * parts;
  torch::stable::parallel_for(0, call.num_rois, 16, [&](int64_t first, int64_t last) {
    std::memset(grad_offset + first * of_roi, 0, (last - first) * of_roi * sizeof(real));
    for (int64_t roi = first; roi < last; ++roi)
      for (int32_t bin = 0; bin < call.bins(); ++bin)
        for (int32_t cls = 0; cls < call.classes; ++cls)
          for (int64_t slice = 0; slice < num_slices; ++slice)
            for (int axis = 0; axis < 2; ++axis)
              grad_offset[(roi * call.classes + cls) * 2 * parts + axis * parts + call.part_of(bin)] +=
                  moved[slice * whole + ((roi * call.bins() + bin) * call.classes + cls) * 2 + axis];
  });
}

// About how many elements a call reads.
int64_t reads(const RoiCall& call) {
  constexpr int64_t pixels_per_bin = 9;
  return call.num_rois * call.bins() * call.classes * call.run * pixels_per_bin;
}

// Threads that are worth waking up: a thread reads this much in some 50 microseconds.
int64_t worthwhile_threads(const RoiCall& call) { return 1 + reads(call) / (int64_t{1} << 19); }

}  // namespace

// A strided read costs about as much as rearranging two elements, and rearranging serves every read after.
bool pools_strided(const RoiCall& call, int64_t map_elements) { return reads(call) < 2 * map_elements; }
bool pools_planes() { return true; }

void pool(DType dtype, const RoiCall& call, const MapView& input, const PooledView& output) {
  const RoiLoops& with = roi_loops();
  const int64_t threads = torch::stable::get_num_threads(), regions = call.num_rois * call.classes;
  const std::vector<RoiChannels> channels = slices(call, 2 * threads / regions);
  const int64_t num_slices = static_cast<int64_t>(channels.size());
  share_tasks(
      call.num_rois * num_slices,
      [&](Tasks& tasks) {
        const Buffer workspace(with.workspace_bytes(dtype, call, call.run));
        for (int64_t i; tasks.take(i);)
          with.pool(dtype, call, input, i / num_slices, channels[i % num_slices], output, workspace.get());
      },
      worthwhile_threads(call));
}

void pool_backward(DType dtype, const RoiCall& call, const MapView& input, const PooledView& grad_output,
                   const RoiGradients& gradients, bool, const torch::stable::Tensor&) {
  const RoiLoops& with = roi_loops();
  const bool exact = dtype == DType::kDouble;
  const auto regions = exact ? regions_of_images<double>(call) : regions_of_images<float>(call);
  int64_t images = 0;
  for (const auto& list : regions) images += !list.empty();
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), worthwhile_threads(call));
  const int64_t owners = std::max<int64_t>(1, images * call.groups() * call.classes);
  const std::vector<RoiChannels> channels = slices(call, (2 * threads + owners - 1) / owners);
  const int64_t num_slices = static_cast<int64_t>(channels.size()) / call.classes;
  const int64_t per_image = call.groups() * static_cast<int64_t>(channels.size());

  // (slices, R, bins, classes, 2); zero for regions of no image.
  const int64_t moved_bytes = call.num_rois * call.bins() * call.classes * 2 * accumulator_bytes(dtype);
  const bool moves = gradients.offset != nullptr;
  const Buffer moved(moves ? num_slices * moved_bytes : 0);
  if (moves) std::memset(moved.get(), 0, num_slices * moved_bytes);

  share_tasks(
      call.batch * per_image,
      [&](Tasks& tasks) {
        const Buffer workspace(with.workspace_bytes(dtype, call, call.run));
        for (int64_t i; tasks.take(i);) {
          const int64_t image = i / per_image, within = i % per_image;
          const RoiChannels& part = channels[within % channels.size()];
          const auto& list = regions[image];
          const int64_t slice = static_cast<int64_t>(within % channels.size()) % num_slices;
          with.backward(dtype, call, input, list.data(), static_cast<int64_t>(list.size()),
                        static_cast<int32_t>(within / channels.size()), part, grad_output, gradients.input,
                        moves ? moved.get() + slice * moved_bytes : nullptr, workspace.get());
        }
      },
      worthwhile_threads(call));
  if (moves && exact)
    sum_parts(call, reinterpret_cast<const double*>(moved.get()), num_slices,
              static_cast<double*>(gradients.offset));
  else if (moves)
    sum_parts(call, reinterpret_cast<const float*>(moved.get()), num_slices,
              static_cast<float*>(gradients.offset));
}

}  // namespace segdcn
