// Products with blocks in registers of 256 bits, for AVX2 and for AVX-VNNI. What comes before the inclusion
// says how bytes are multiplied: PTUNE_KERNEL, PTUNE_PART, and
//
//     Pair                                   weights of a sum's first four inputs and of its others
//     four_products<kBytes>(weights, q)      eight sums of integers, with q + {0..3, 8..11}
//     two_fours<kBytes>(weights, q, ...)     the same as two sums each, with {0..3} and with {8..11}
//
// A register holds a sum of eight columns, half a panel. The blocks at one place of their fours lie together,
// so a pass over them has four sums a row in registers, and up to two rows meet a weight while it is there.
#pragma once

#include <algorithm>

#include "block_rounding.h"

namespace ptune {
namespace {

constexpr size_t kMostRows = 2, kHalf = 8;  // kHalf: columns

template <bool kBytes>
PTUNE_PART Pair weights_of(const uint8_t* block, size_t sum) {
  if constexpr (kBytes)
    return {_mm256_load_si256(reinterpret_cast<const __m256i*>(block + sum * 128)),
            _mm256_load_si256(reinterpret_cast<const __m256i*>(block + sum * 128 + 64))};
  const __m256i both = _mm256_load_si256(reinterpret_cast<const __m256i*>(block + sum * 64));
  const __m256i low = _mm256_set1_epi8(15);
  return {_mm256_and_si256(both, low), _mm256_and_si256(_mm256_srli_epi16(both, 4), low)};
}

struct Tile {  // half a panel and its rows
  const BlockWeights& w;
  const uint8_t* panel;
  size_t half;  // 0 or 1
  const uint8_t* row;
  size_t stride;  // from row to row

  PTUNE_PART const int8_t* q(size_t at, size_t block) const {
    return reinterpret_cast<const int8_t*>(row + at * stride + block * kOfABlock);
  }
  PTUNE_PART float step(size_t at, size_t block) const {
    return reinterpret_cast<const float*>(row + at * stride + w.blocks * kOfABlock)[block];
  }
  PTUNE_PART __m256 factor(size_t at, size_t block, __m256 scale) const {
    return _mm256_mul_ps(_mm256_set1_ps(step(at, block)), scale);
  }
  PTUNE_PART __m256 total(size_t at, size_t block) const {
    return _mm256_set1_ps(step(at, w.blocks + block));
  }
  PTUNE_PART const uint8_t* weights(size_t place) const {
    return panel + w.scale_bytes() + w.zero_bytes() + place * w.block_bytes() + half * 32;
  }
  PTUNE_PART __m256 scale(size_t block) const {
    if (block < w.wide) return _mm256_load_ps(reinterpret_cast<const float*>(panel + block * 64 + half * 32));
    const uint8_t* halves = panel + w.wide * 64 + (block - w.wide) * 32 + half * 16;
    return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(halves)));
  }
  // What a block's total is multiplied with: -(scale * zero), eight blocks after another from `eight`.
  PTUNE_PART __m256 minus_zero(size_t block, __m256i& eight) const {
    if (!w.zeros) return _mm256_set1_ps(-w.zero);
    const uint8_t* packed = panel + w.scale_bytes() + block / 8 * 64 + half * 32;
    eight = block % 8 == 0 ? _mm256_load_si256(reinterpret_cast<const __m256i*>(packed))
                           : _mm256_srli_epi32(eight, 4);
    const __m256 zero = _mm256_cvtepi32_ps(_mm256_and_si256(eight, _mm256_set1_epi32(15)));
    return _mm256_xor_ps(zero, _mm256_set1_ps(-0.0f));
  }
};

// Four sums of eight columns each; members, not arrays in loops: GCC 12 leaves those in memory.
struct Four {
  __m256 s0, s1, s2, s3;
};

struct Sums {  // d[h, w, j] of one row, and its c
  __m256 d[2][2][2], c;
};

PTUNE_PART __m256 plus(__m256 to, __m256i sums, __m256 factor) {
  return _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), factor, to);
}

// Blocks at one place of their fours, of one row or of two.
template <size_t kRows, bool kBytes>
PTUNE_PART void at_place(const Tile& tile, size_t place, Four& of_first, Four& of_second) {
  const __m256 zero = _mm256_setzero_ps();
  Four a{zero, zero, zero, zero}, b = a;
  const uint8_t* weights = tile.weights(place * tile.w.fours());
  for (size_t block = place; block < 4 * tile.w.fours(); block += 4, weights += kBytes ? 512 : 256) {
    const __m256 scale = tile.scale(block);
    const __m256 fa = tile.factor(0, block, scale), fb = kRows > 1 ? tile.factor(1, block, scale) : fa;
    const int8_t *qa = tile.q(0, block), *qb = tile.q(1, block);
#define ADD_SUM(sum, at)                                                          \
  {                                                                               \
    const Pair w = weights_of<kBytes>(weights, sum);                              \
    a.s##sum = plus(a.s##sum, four_products<kBytes>(w, qa + at), fa);             \
    if (kRows > 1) b.s##sum = plus(b.s##sum, four_products<kBytes>(w, qb + at), fb); \
  }
    ADD_SUM(0, 0)
    ADD_SUM(1, 4)
    ADD_SUM(2, 16)
    ADD_SUM(3, 20)
#undef ADD_SUM
  }
  of_first = a;
  of_second = b;
}

PTUNE_PART void store(Sums& to, size_t which, const Four& even, const Four& odd) {
  to.d[0][which][0] = _mm256_add_ps(even.s0, odd.s0);
  to.d[0][which][1] = _mm256_add_ps(even.s1, odd.s1);
  to.d[1][which][0] = _mm256_add_ps(even.s2, odd.s2);
  to.d[1][which][1] = _mm256_add_ps(even.s3, odd.s3);
}

template <size_t kRows, bool kBytes>
PTUNE_PART void whole_fours(const Tile& tile, Sums* sums) {
  for (size_t which = 0; which < 2; ++which) {
    Four even[2], odd[2];
    at_place<kRows, kBytes>(tile, 2 * which, even[0], even[1]);
    at_place<kRows, kBytes>(tile, 2 * which + 1, odd[0], odd[1]);
    for (size_t row = 0; row < kRows; ++row) store(sums[row], which, even[row], odd[row]);
  }
}

template <size_t kRows, bool kBytes>
PTUNE_PART void the_rest(const Tile& tile, Sums* sums) {
  for (size_t block = 4 * tile.w.fours(); block < tile.w.blocks; ++block) {
    const uint8_t* weights = tile.weights(block);
    const __m256 scale = tile.scale(block);
    for (size_t sum = 0; sum < 4; ++sum) {
      const Pair w = weights_of<kBytes>(weights, sum);
      for (size_t row = 0; row < kRows; ++row) {
        const __m256 factor = tile.factor(row, block, scale);
        __m256i of_first, of_other;
        two_fours<kBytes>(w, tile.q(row, block) + 16 * (sum / 2) + 4 * (sum % 2), of_first, of_other);
        __m256 &first = sums[row].d[sum / 2][0][sum % 2], &other = sums[row].d[sum / 2][1][sum % 2];
        first = plus(first, of_first, factor);
        other = plus(other, of_other, factor);
      }
    }
  }
}

template <size_t kRows>
PTUNE_PART void zeros(const Tile& tile, Sums* sums) {
  __m256 a = _mm256_setzero_ps(), b = a;
  __m256i eight = _mm256_setzero_si256();
  for (size_t block = 0; block < tile.w.blocks; ++block) {
    const __m256 product = _mm256_mul_ps(tile.scale(block), tile.minus_zero(block, eight));
    a = _mm256_fmadd_ps(tile.total(0, block), product, a);
    if (kRows > 1) b = _mm256_fmadd_ps(tile.total(1, block), product, b);
  }
  sums[0].c = a;
  if constexpr (kRows > 1) sums[1].c = b;
}

PTUNE_PART __m256 of_half(const __m256 (&d)[2][2]) {
  return _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(d[0][0], d[0][1]), d[1][0]), d[1][1]);
}

// From column `last` on they are added up as the last ones are.
PTUNE_PART __m256 total_of(const Sums& sums, size_t last) {
  __m256 all = _mm256_add_ps(of_half(sums.d[0]), of_half(sums.d[1]));
  if (last < kHalf) {
    __m256 t[2][2];
    for (size_t which = 0; which < 2; ++which)
      for (size_t j = 0; j < 2; ++j) t[which][j] = _mm256_add_ps(sums.d[0][which][j], sums.d[1][which][j]);
    const __m256 others =
        _mm256_add_ps(_mm256_add_ps(t[0][0], t[1][0]), _mm256_add_ps(t[0][1], t[1][1]));
    all = _mm256_blendv_ps(others, all, _mm256_castsi256_ps(first_of_8(last)));
  }
  return _mm256_add_ps(sums.c, all);
}

template <size_t kRows, bool kBytes>
PTUNE_KERNEL void tile_product(const Tile& tile, size_t last, __m256* y) {
  Sums sums[kRows];
  zeros<kRows>(tile, sums);
  whole_fours<kRows, kBytes>(tile, sums);
  the_rest<kRows, kBytes>(tile, sums);
  for (size_t row = 0; row < kRows; ++row) y[row] = total_of(sums[row], last);
}

constexpr decltype(&tile_product<1, false>) kTileProducts[2][kMostRows] = {
    {tile_product<1, false>, tile_product<2, false>}, {tile_product<1, true>, tile_product<2, true>}};

// Up to eight columns of all rows, from `first` of a panel on.
PTUNE_KERNEL void half_product(const BlockWeights& w, const BlockRows& rows, size_t panel, size_t first,
                               float* y) {
  const size_t of_one = rows.of_one(), all = rows.count * of_one;
  const size_t columns = w.columns_of(panel), there = columns - first;
  const size_t whole = columns / 4 * 4, last = whole > first ? whole - first : 0;
  for (size_t row = 0; row < all; row += kMostRows) {
    const size_t count = std::min(all - row, kMostRows);
    const Tile tile{w, w.bytes + panel * w.panel_bytes(), first / kHalf, rows.bytes + row * rows.stride,
                    rows.stride};
    __m256 found[kMostRows];
    kTileProducts[w.bits == 8][count - 1](tile, last, found);
    for (size_t at = 0; at < count; at += of_one) {
      const __m256 value = rows.twice ? _mm256_add_ps(found[at], found[at + 1]) : found[at];
      store_some(y + (row + at) / of_one * w.out + panel * kOfAPanel + first, value, there);
    }
  }
}

void product(const BlockWeights& w, const BlockRows& rows, float* y, size_t from, size_t to) {
  for (size_t panel = from; panel < to; ++panel)
    for (size_t first = 0; first < w.columns_of(panel); first += kHalf)
      half_product(w, rows, panel, first, y);
}

}  // namespace
}  // namespace ptune
