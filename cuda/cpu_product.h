// The matrix product of the direct path, in registers: c (+)= a x b, tile by tile.
//
// Written here because the columns that it multiplies are gathered block by block into the
// second-level cache and never become a tensor; a vendor's product wants them all in memory.
#pragma once

#include "cpu_vector.h"

namespace segdcn {
namespace {

// The accumulators of a tile and one row of b fill the registers. Wide tiles were 5 % faster than
// tall ones of the same size: fewer elements of a are loaded per multiplication.
constexpr int kTileRows = kRegisterBytes == 64 ? 7 : 6;
constexpr int kTileVectors = kRegisterBytes == 64 ? 4 : 2;
template <typename real>
constexpr int kTileWidth = kTileVectors * kLanes<real>;

// A matrix, element (i, k) at data[i * row + k * step].
template <typename real>
struct Strided {
  const real* data;
  int64_t row, step;
};

// What is not needed now but soon: bytes from `data` on, `step` of them at each step of depth.
struct Prefetch {
  const char* data;
  int64_t step;
};

// One tile: `rows` x (vectors * lanes) elements of c. Rows of b have `b_row` elements.
template <typename real, int rows, int vectors>
__attribute__((noinline)) void product_tile(int64_t depth, Strided<real> a, const real* b, int64_t b_row,
                                            real* c, int64_t c_row, bool add, Prefetch next) {
  using vector = typename VectorOf<real>::type;
  constexpr int lanes = kLanes<real>;
  const int64_t a_row = a.row;
  const real* column = a.data;
  vector sum[rows][vectors];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
      if (add) __builtin_prefetch(c + i * c_row + j * lanes, 1);
      sum[i][j] = vector{};
    }
  for (int64_t k = 0; k < depth; ++k) {
    __builtin_prefetch(next.data, 0, 2);
    next.data += next.step;
    vector across[vectors];
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) across[j] = load(b + j * lanes);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const real factor = column[i * a_row];
#pragma GCC unroll 4
      for (int j = 0; j < vectors; ++j) sum[i][j] += factor * across[j];
    }
    column += a.step;
    b += b_row;
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < vectors; ++j) {
      real* target = c + i * c_row + j * lanes;
      if (add) sum[i][j] += load(target);
      store(target, sum[i][j]);
    }
}

// A tile of any height up to `rows`.
template <typename real, int vectors, int rows = kTileRows>
SEGDCN_INLINE void product_rows(int64_t height, int64_t depth, Strided<real> a, const real* b, int64_t b_row,
                                real* c, int64_t c_row, bool add, Prefetch next) {
  if constexpr (rows > 1) {
    if (height != rows) {
      product_rows<real, vectors, rows - 1>(height, depth, a, b, b_row, c, c_row, add, next);
      return;
    }
  }
  product_tile<real, rows, vectors>(depth, a, b, b_row, c, c_row, add, next);
}

// One strip of c, at most a tile wide: all its rows against one panel of b. Meanwhile the panel
// at `next`, as large as this one, is brought into the second-level cache.
template <typename real, int vectors = kTileVectors>
SEGDCN_INLINE void product_strip(int64_t height, int64_t width, int64_t depth, Strided<real> a, const real* b,
                                 int64_t b_row, real* c, int64_t c_row, bool add, const real* next) {
  if constexpr (vectors > 1) {
    if (width <= (vectors - 1) * kLanes<real>) {
      product_strip<real, vectors - 1>(height, width, depth, a, b, b_row, c, c_row, add, next);
      return;
    }
  }
  const int64_t tiles = (height + kTileRows - 1) / kTileRows;
  const int64_t step = b_row * static_cast<int64_t>(sizeof(real)) / tiles;
  for (int64_t t = 0; t < tiles; ++t) {  // of equal height: a low one uses the registers badly
    const int64_t first = height * t / tiles, rows = height * (t + 1) / tiles - first;
    const Prefetch ahead{reinterpret_cast<const char*>(next) + t * depth * step, step};
    product_rows<real, vectors>(rows, depth, {a.data + first * a.row, a.row, a.step}, b, b_row,
                                c + first * c_row, c_row, add, ahead);
  }
}

}  // namespace
}  // namespace segdcn
