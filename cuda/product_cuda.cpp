// The matrix product by cuBLAS, through torch's handle and so on its current stream: tensor cores, sums in
// float32 whatever the factors are, and float32 results added to where the gradient of a weight is summed.
#include <cublas_v2.h>
#include <torch/csrc/stable/c/shim.h>

#include <limits>

#include "product.h"
#include "product_blas.h"

namespace segdcn {
namespace {

void check(cublasStatus_t status, const char* what) {
  STD_TORCH_CHECK(status == CUBLAS_STATUS_SUCCESS, "segdcn: ", what,
                  " failed: ", cublasGetStatusString(status));
}

// torch's handle, with its precision set to ours as long as this lives.
class Handle {
 public:
  Handle() {
    void* handle = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_get_current_cuda_blas_handle(&handle));
    handle_ = static_cast<cublasHandle_t>(handle);
    check(cublasGetMathMode(handle_, &before_), "cublasGetMathMode");
    // Whether TF32 is used is said with each product.
    const int mode = CUBLAS_DEFAULT_MATH | CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION;
    check(cublasSetMathMode(handle_, static_cast<cublasMath_t>(mode)), "cublasSetMathMode");
  }
  ~Handle() { cublasSetMathMode(handle_, before_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator cublasHandle_t() const { return handle_; }

 private:
  cublasHandle_t handle_;
  cublasMath_t before_;
};

cudaDataType_t blas_type(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Double: return CUDA_R_64F;
    case ScalarType::Half: return CUDA_R_16F;
    case ScalarType::BFloat16: return CUDA_R_16BF;
    default: return CUDA_R_32F;
  }
}

void product(const Tensor& a, const Tensor& b, const Tensor& out, bool add, bool allow_tf32) {
  const BlasCall blas = blas_call(a, b, out);
  for (int64_t size : {blas.m, blas.n, blas.k, blas.batch, blas.a.leading, blas.b.leading, blas.c.leading})
    STD_TORCH_CHECK(size <= std::numeric_limits<int>::max(), "segdcn: a matrix is too large for cuBLAS");
  const ScalarType dtype = a.scalar_type();
  const double alpha64 = 1, beta64 = add ? 1 : 0;
  const float alpha32 = 1, beta32 = add ? 1 : 0;
  const bool is_double = dtype == ScalarType::Double;
  const void* alpha = is_double ? static_cast<const void*>(&alpha64) : &alpha32;
  const void* beta = is_double ? static_cast<const void*>(&beta64) : &beta32;
  const cublasComputeType_t compute = is_double ? CUBLAS_COMPUTE_64F
                                      : dtype == ScalarType::Float && allow_tf32
                                          ? CUBLAS_COMPUTE_32F_FAST_TF32
                                          : CUBLAS_COMPUTE_32F;
  const auto op = [](const BlasMatrix& m) { return m.transposed ? CUBLAS_OP_T : CUBLAS_OP_N; };
  const auto size = [](int64_t value) { return static_cast<int>(value); };
  const Handle handle;
  check(cublasGemmStridedBatchedEx(handle, op(blas.a), op(blas.b), size(blas.m), size(blas.n), size(blas.k),
                                   alpha, blas.a.data, blas_type(dtype), size(blas.a.leading), blas.a.stride,
                                   blas.b.data, blas_type(dtype), size(blas.b.leading), blas.b.stride, beta,
                                   blas.c.data, blas_type(out.scalar_type()), size(blas.c.leading),
                                   blas.c.stride, size(blas.batch), compute, CUBLAS_GEMM_DEFAULT),
        "cublasGemmStridedBatchedEx");
}

}  // namespace

void Product::multiply(const Tensor& a, const Tensor& b, const Tensor& out) {
  product(a, b, out, false, allow_tf32_);
}

void Product::multiply_add(const Tensor& a, const Tensor& b, const Tensor& total) {
  product(a, b, total, true, allow_tf32_);
}

}  // namespace segdcn
