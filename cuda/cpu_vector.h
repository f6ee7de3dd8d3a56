// A register's worth of float or double, loaded from and stored to any of the four dtypes.
// Compiler vectors (g++ and clang, any processor); intrinsics only for float16.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#define SEGDCN_INLINE static inline __attribute__((always_inline))

namespace segdcn {
namespace {

// Storage types: bits that are converted on load and store, never computed with.
struct half_bits {
  uint16_t bits;
};
struct bfloat16_bits {
  uint16_t bits;
};

template <typename T>
struct Accumulation {
  using type = float;
};
template <>
struct Accumulation<double> {
  using type = double;
};

#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64;
#elif defined(__AVX__)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;
#endif

using float_vector = float __attribute__((vector_size(kRegisterBytes)));
using double_vector = double __attribute__((vector_size(kRegisterBytes)));
using uint32_vector = uint32_t __attribute__((vector_size(kRegisterBytes)));
using uint16_vector = uint16_t __attribute__((vector_size(kRegisterBytes / 2)));

template <typename real>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type = float_vector;
};
template <>
struct VectorOf<double> {
  using type = double_vector;
};

template <typename real>
constexpr int kLanes = kRegisterBytes / static_cast<int>(sizeof(real));

// ---- one element

SEGDCN_INLINE float load_one(const float* p) { return *p; }
SEGDCN_INLINE double load_one(const double* p) { return *p; }
SEGDCN_INLINE float load_one(const bfloat16_bits* p) {
  const uint32_t bits = uint32_t{p->bits} << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
SEGDCN_INLINE float load_one(const half_bits* p) {
  _Float16 value;
  std::memcpy(&value, p, 2);
  return static_cast<float>(value);
}

SEGDCN_INLINE void store_one(float* p, float v) { *p = v; }
SEGDCN_INLINE void store_one(double* p, double v) { *p = v; }
SEGDCN_INLINE void store_one(bfloat16_bits* p, float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  // Round to nearest, ties to even; NaN stays NaN.
  p->bits = v != v ? uint16_t{0x7fc0} : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
SEGDCN_INLINE void store_one(half_bits* p, float v) {
  const _Float16 value = static_cast<_Float16>(v);
  std::memcpy(p, &value, 2);
}

// ---- one register

// The same bits read as another vector type.
template <typename To, typename From>
SEGDCN_INLINE To as_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "a register each");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

SEGDCN_INLINE float_vector load(const float* p) {
  float_vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
SEGDCN_INLINE double_vector load(const double* p) {
  double_vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
SEGDCN_INLINE float_vector load(const bfloat16_bits* p) {
  uint16_vector narrow;
  std::memcpy(&narrow, p, sizeof narrow);
  const uint32_vector wide = __builtin_convertvector(narrow, uint32_vector) << 16;
  return as_bits<float_vector>(wide);
}
SEGDCN_INLINE float_vector load(const half_bits* p) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
#elif defined(__F16C__)
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
#else
  float_vector v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = load_one(p + i);
  return v;
#endif
}

SEGDCN_INLINE void store(float* p, float_vector v) { std::memcpy(p, &v, sizeof v); }
SEGDCN_INLINE void store(double* p, double_vector v) { std::memcpy(p, &v, sizeof v); }
SEGDCN_INLINE void store(bfloat16_bits* p, float_vector v) {
  const uint32_vector bits = as_bits<uint32_vector>(v);
  const uint32_vector rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_vector nan = uint32_vector{} + 0x7fc0u;
  const uint16_vector narrow = __builtin_convertvector(v != v ? nan : rounded, uint16_vector);
  std::memcpy(p, &narrow, sizeof narrow);
}
SEGDCN_INLINE void store(half_bits* p, float_vector v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes<float>; ++i) store_one(p + i, v[i]);
#endif
}

// The sum over the lanes, always in the same order.
template <typename real>
SEGDCN_INLINE real lane_sum(typename VectorOf<real>::type v) {
  real sum = 0;
  for (int i = 0; i < kLanes<real>; ++i) sum += v[i];
  return sum;
}

}  // namespace
}  // namespace segdcn
