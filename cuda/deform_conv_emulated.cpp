// The GPU's kernels on the CPU, one index after the other, with products as a BLAS would make them: a library
// for tests, which takes the place of segdcn_cpu.so (python cuda/build.py --emulated).
#include "emulate.h"
//
#include <string>

#include "deform_conv_device.h"
#include "dtypes.h"
#include "product.h"
#include "product_blas.h"

namespace segdcn {
namespace {

template <typename T, typename To>
void product(const BlasCall& blas, bool add) {
  using real = typename kernels::Accumulation<T>::type;
  const auto at = [](const BlasMatrix& m, int64_t batch, int64_t row, int64_t column) {
    const int64_t element = m.transposed ? row * m.leading + column : column * m.leading + row;
    return static_cast<const T*>(m.data) + batch * m.stride + element;
  };
  for (int64_t i = 0; i < blas.batch; ++i) {
    for (int64_t column = 0; column < blas.n; ++column) {
      To* to = static_cast<To*>(blas.c.data) + i * blas.c.stride + column * blas.c.leading;
      for (int64_t row = 0; row < blas.m; ++row) {
        real sum = 0;
        for (int64_t k = 0; k < blas.k; ++k)
          sum += static_cast<real>(*at(blas.a, i, row, k)) * static_cast<real>(*at(blas.b, i, k, column));
        to[row] = static_cast<To>(add ? static_cast<real>(to[row]) + sum : sum);
      }
    }
  }
}

}  // namespace

void Product::multiply(const Tensor& a, const Tensor& b, const Tensor& out) {
  for_type(kernel_dtype(a.scalar_type()), [&](auto element) {
    using T = decltype(element);
    product<T, T>(blas_call(a, b, out), false);
  });
}

void Product::multiply_add(const Tensor& a, const Tensor& b, const Tensor& total) {
  for_type(kernel_dtype(a.scalar_type()), [&](auto element) {
    using T = decltype(element);
    product<T, typename kernels::Accumulation<T>::type>(blas_call(a, b, total), true);
  });
}

// Small, so that small tests go through several chunks and groups of images.
Limits limits() { return {int64_t{64} << 10, int64_t{64} << 10}; }

std::string cpu_capability() { return "emulated kernels"; }

}  // namespace segdcn
