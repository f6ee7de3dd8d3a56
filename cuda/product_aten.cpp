// The matrix product by torch's own, on the CPU.
#include "dtypes.h"
#include "product.h"

namespace segdcn {
namespace {

void product(const Tensor& a, const Tensor& b, const Tensor& out) {
  call(a.dim() == 2 ? "aten::mm" : "aten::bmm", "out", a, b, out);
}

}  // namespace

void Product::multiply(const Tensor& a, const Tensor& b, const Tensor& out) {
  if (out.is_contiguous()) {
    product(a, b, out);
    return;
  }
  const auto size = out.sizes();
  Tensor dense = empty(std::vector<int64_t>(size.begin(), size.end()), out.scalar_type(), out), target = out;
  product(a, b, dense);
  torch::stable::copy_(target, dense);
}

void Product::multiply_add(const Tensor& a, const Tensor& b, const Tensor& total) {
  if (!part_.defined() || part_.numel() != total.numel()) {
    const auto size = total.sizes();
    part_ = empty(std::vector<int64_t>(size.begin(), size.end()), a.scalar_type(), a);
  }
  product(a, b, part_);
  accumulate(kernel_dtype(a.scalar_type()), part_.data_ptr(), part_.numel(), total.data_ptr());
}

}  // namespace segdcn
