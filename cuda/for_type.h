// The element type of a dtype, for kernels.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "deform_conv.h"

namespace segdcn {
namespace {

// Calls body(T{}) for the element type.
template <typename Body>
void for_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::kFloat: return body(float{});
    case DType::kDouble: return body(double{});
    case DType::kHalf: return body(c10::Half{});
    case DType::kBFloat16: return body(c10::BFloat16{});
  }
}

}  // namespace
}  // namespace segdcn
