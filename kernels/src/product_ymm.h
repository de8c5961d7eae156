// The product with registers of 256 bits, for AVX2 and for AVX-VNNI. What comes before the inclusion says how
// four products of bytes are added: PTUNE_KERNEL, PTUNE_PART, kBlock, and
//
//     struct Step                            what lies together of four numbers of a row; Step::kBytes
//     RowSums, TwoOfWeights, weights_at      a row's sums with a panel; two registers of weights
//     store_steps(to, stride, high, low)     writes four of them, of 16 numbers of 16 bits
//     add_step(sums, weights, step)          adds their products with weights to a row's sums
//
// Rows lie in blocks of up to kBlock: [depth / 4][rows of the block][a step]. A panel meets a block with all
// its sums in registers, so a weight is read once a block, and from memory once.
#pragma once

#include "rounding.h"

namespace ptune {
namespace {

size_t rows_of_block(const Rows& rows, size_t first) {
  return rows.count - first < kBlock ? rows.count - first : kBlock;
}

// Eight numbers in steps of the low byte, from 0 on.
PTUNE_PART __m256i steps_of(__m256 x, float fine) {
  __m256 steps = _mm256_div_ps(x, _mm256_set1_ps(fine));
  steps = _mm256_min_ps(_mm256_max_ps(steps, _mm256_set1_ps(kLeast)), _mm256_set1_ps(kMost));
  return _mm256_add_epi32(_mm256_cvtps_epi32(steps), _mm256_set1_epi32(32896));
}

// Padding is zeros, which are 0 in both bytes: not in the sums, whatever weights they meet.
PTUNE_KERNEL void round_row(const float* x, const Weights& w, float fine, int32_t* excess, uint8_t* to,
                            size_t stride) {
  const __m256i middle = _mm256_set1_epi16(128), ones = _mm256_set1_epi16(1);
  __m256i high_sum = _mm256_setzero_si256(), low_sum = high_sum;
  for (size_t k = 0; k < w.depth; k += 16, to += 4 * stride) {
    const size_t left = k < w.in ? w.in - k : 0;
    const __m256i first = steps_of(load_some(x + k, left), fine);
    const __m256i second = steps_of(load_some(x + k + 8, left > 8 ? left - 8 : 0), fine);
    const __m256i q = _mm256_permute4x64_epi64(_mm256_packus_epi32(first, second), 0xd8);
    const __m256i high = _mm256_sub_epi16(odd_bytes(q), middle);
    const __m256i low = _mm256_sub_epi16(even_bytes(q), middle);
    high_sum = _mm256_add_epi32(high_sum, _mm256_madd_epi16(high, ones));
    low_sum = _mm256_add_epi32(low_sum, _mm256_madd_epi16(low, ones));
    store_steps(to, stride, high, low);
  }
  excess[0] = sum_of(high_sum) * 128;
  excess[1] = sum_of(low_sum) * 128;
}

void round_rows(const Weights& w, const Rounding& rounding, const float* x, const Rows& rows, size_t from,
                size_t to) {
  constexpr size_t kOfARow = Step::kBytes / 4;  // bytes a number
  for (size_t row = from; row < to; ++row) {
    const size_t first = row / kBlock * kBlock;
    uint8_t* at = reinterpret_cast<uint8_t*>(rows.bytes) + first * kOfARow * w.depth;
    round_row(x + row * w.in, w, rounding.fine, rows.excess + 2 * row, at + (row - first) * Step::kBytes,
              rows_of_block(rows, first) * Step::kBytes);
  }
}

struct Tile {  // a block of rows and a panel
  const uint8_t* weights;
  const uint8_t* x;
  size_t depth;
  const int32_t* excess;
  const float* multiplier;
  const float* inverse;
  float* y;
  size_t out;           // from one row of y to the next
  size_t columns;       // that are left in y
  const uint8_t* next;  // weights of the next tile; on the last block of rows, those that come from memory
};

// Writes up to eight columns of a row of y from their sums.
PTUNE_PART void finish(__m256i high, __m256i low, const Tile& tile, size_t row, size_t first) {
  if (first >= tile.columns) return;
  const int32_t* excess = tile.excess + 2 * row;
  const size_t count = tile.columns - first;
  const __m256 factor = load_some(tile.multiplier + first, count);
  const __m256 h = _mm256_cvtepi32_ps(_mm256_sub_epi32(high, _mm256_set1_epi32(excess[0])));
  const __m256 l = _mm256_cvtepi32_ps(_mm256_sub_epi32(low, _mm256_set1_epi32(excess[1])));
  __m256 value = _mm256_mul_ps(_mm256_mul_ps(l, factor), _mm256_set1_ps(1.0f / 256));
  value = _mm256_add_ps(_mm256_mul_ps(h, factor), value);
  if (tile.inverse != nullptr) value = _mm256_div_ps(value, _mm256_set1_ps(tile.inverse[row]));
  store_some(tile.y + row * tile.out + first, value, count);
}

PTUNE_PART void finish_row(const RowSums& sums, const Tile& tile, size_t row) {
  finish(sums.high0, sums.low0, tile, row, 0);
  finish(sums.high1, sums.low1, tile, row, 8);
}

template <size_t kRows>
PTUNE_KERNEL void tile_product(const Tile& tile) {
  const __m256i zero = _mm256_setzero_si256();
  RowSums a{zero, zero, zero, zero}, b = a, c = a;
  const uint8_t* x = tile.x;
  for (size_t at = 0; at < tile.depth * kColumns; at += 4 * kColumns) {
    const TwoOfWeights w = weights_at(tile.weights + at);
    _mm_prefetch(tile.next + at, _MM_HINT_T1);
    add_step(a, w, x);
    if constexpr (kRows > 1) add_step(b, w, x + Step::kBytes);
    if constexpr (kRows > 2) add_step(c, w, x + 2 * Step::kBytes);
    x += kRows * Step::kBytes;
  }
  finish_row(a, tile, 0);
  if constexpr (kRows > 1) finish_row(b, tile, 1);
  if constexpr (kRows > 2) finish_row(c, tile, 2);
}

constexpr decltype(&tile_product<1>) kTileProducts[] = {tile_product<1>, tile_product<2>, tile_product<3>};

void product(const Weights& w, const Rows& rows, const float* multiplier, const float* inverse, float* y,
             size_t from, size_t to) {
  constexpr size_t kOfARow = Step::kBytes / 4;
  for (size_t panel = from; panel < to; ++panel) {
    const size_t column = panel * kColumns;
    const uint8_t* weights = w.bytes + column * w.depth;
    for (size_t first = 0; first < rows.count; first += kBlock) {
      const bool last = first + kBlock >= rows.count;
      const Tile tile{weights,
                      reinterpret_cast<const uint8_t*>(rows.bytes) + first * kOfARow * w.depth,
                      w.depth,
                      rows.excess + 2 * first,
                      multiplier + column,
                      inverse == nullptr ? nullptr : inverse + first,
                      y + first * w.out + column,
                      w.out,
                      w.out - column,
                      last ? weights + w.depth * kColumns : weights};
      kTileProducts[rows_of_block(rows, first) - 1](tile);
    }
  }
}

}  // namespace
}  // namespace ptune
