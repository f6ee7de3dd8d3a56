// A register's worth of float or double, loaded from and stored to any of the four dtypes.
// Compiler vectors (g++ and clang, any processor); intrinsics only for float16.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__F16C__) || defined(__AVX512F__)
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

// ---- the first `count` lanes; the others are 0 and are not stored

#if defined(__AVX512BW__) && defined(__AVX512VL__)
SEGDCN_INLINE float_vector load_part(const float* p, int count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}
SEGDCN_INLINE double_vector load_part(const double* p, int count) {
  return _mm512_maskz_loadu_pd(static_cast<__mmask8>((1u << count) - 1), p);
}
SEGDCN_INLINE __m256i load_part_bits(const void* p, int count) {
  return _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), p);
}
SEGDCN_INLINE float_vector load_part(const bfloat16_bits* p, int count) {
  return as_bits<float_vector>(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_part_bits(p, count)), 16));
}
SEGDCN_INLINE float_vector load_part(const half_bits* p, int count) {
  return _mm512_cvtph_ps(load_part_bits(p, count));
}
SEGDCN_INLINE void store_part(float* p, float_vector v, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), v);
}
SEGDCN_INLINE void store_part(double* p, double_vector v, int count) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>((1u << count) - 1), v);
}
template <typename half>
SEGDCN_INLINE void store_part(half* p, float_vector v, int count) {
  half all[kLanes<float>];
  store(all, v);
  __m256i bits;
  std::memcpy(&bits, all, sizeof bits);
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>((1u << count) - 1), bits);
}
#else
template <typename T>
SEGDCN_INLINE typename VectorOf<typename Accumulation<T>::type>::type load_part(const T* p, int count) {
  T all[kLanes<typename Accumulation<T>::type>] = {};
  for (int i = 0; i < count; ++i) all[i] = p[i];
  return load(all);
}
template <typename T>
SEGDCN_INLINE void store_part(T* p, typename VectorOf<typename Accumulation<T>::type>::type v, int count) {
  T all[kLanes<typename Accumulation<T>::type>];
  store(all, v);
  for (int i = 0; i < count; ++i) p[i] = all[i];
}
#endif

// ---- a square of lanes x lanes elements, transposed in registers

#if !defined(__clang__)  // which has no __builtin_shuffle with a variable mask
template <typename real>
struct Interleave;
template <>
struct Interleave<float> {
  using mask = int32_t __attribute__((vector_size(kRegisterBytes)));
};
template <>
struct Interleave<double> {
  using mask = int64_t __attribute__((vector_size(kRegisterBytes)));
};
#endif

// rows[i][j] <-> rows[j][i]
template <typename real>
SEGDCN_INLINE void transpose(typename VectorOf<real>::type* rows) {
  constexpr int lanes = kLanes<real>;
#if defined(__clang__)
  for (int i = 0; i < lanes; ++i)
    for (int j = 0; j < i; ++j) {
      const real swap = rows[i][j];
      rows[i][j] = rows[j][i];
      rows[j][i] = swap;
    }
#else
  using mask = typename Interleave<real>::mask;
  mask low, high;  // a0 b0 a1 b1 ... of the first and of the second half
  for (int i = 0; i < lanes; ++i) {
    low[i] = i / 2 + i % 2 * lanes;
    high[i] = low[i] + lanes / 2;
  }
  // log2(lanes) perfect shuffles of the rows are a transposition.
  for (int step = 1; step < lanes; step *= 2) {
    typename VectorOf<real>::type next[lanes];
    for (int i = 0; i < lanes / 2; ++i) {
      next[2 * i] = __builtin_shuffle(rows[i], rows[i + lanes / 2], low);
      next[2 * i + 1] = __builtin_shuffle(rows[i], rows[i + lanes / 2], high);
    }
    for (int i = 0; i < lanes; ++i) rows[i] = next[i];
  }
#endif
}

// The sum over the lanes, always in the same order: halves are added until one element is left.
template <typename real>
SEGDCN_INLINE real lane_sum(typename VectorOf<real>::type v) {
  real part[kLanes<real>];
  std::memcpy(part, &v, sizeof v);
#pragma GCC unroll 4
  for (int width = kLanes<real> / 2; width > 0; width /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < width; ++i) part[i] += part[i + width];
  return part[0];
}

}  // namespace
}  // namespace segdcn
