// torch's dtypes and the operators'.
#pragma once

#include "deform_conv.h"
#include "tensors.h"

namespace segdcn {

inline DType kernel_dtype(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return DType::kFloat;
    case ScalarType::Double: return DType::kDouble;
    case ScalarType::Half: return DType::kHalf;
    case ScalarType::BFloat16: return DType::kBFloat16;
    default: STD_TORCH_CHECK(false, "segdcn: input must be float16, bfloat16, float32 or float64");
  }
}

inline ScalarType accumulation_dtype(ScalarType dtype) {
  return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

}  // namespace segdcn
