// AVX-512 with VNNI. A register holds a sum of 16 columns. The blocks at one place of their fours lie
// together, so a pass over them has four sums a row in registers, and up to four rows meet a weight while it
// is there.
#if defined(__x86_64__)

#include <algorithm>

#include "avx512.h"
#include "block_rounding.h"

namespace ptune {
namespace {

constexpr size_t kMostRows = 4, kAhead = 2048;  // bytes

// Rounds up to 32 numbers of a block.
PTUNE_INLINE __m256i round_block(__m512 first, __m512 second, float& step, float& total) {
  const __m512 sizes =
      _mm512_max_ps(_mm512_max_ps(_mm512_setzero_ps(), _mm512_abs_ps(first)), _mm512_abs_ps(second));
  const float largest = _mm512_reduce_max_ps(sizes);
  step = largest / 127.0f;
  const __m512 inverse = _mm512_set1_ps(largest != 0 ? 127.0f / largest : 0.0f);
  const __m512i low = _mm512_cvtps_epi32(_mm512_mul_ps(first, inverse));
  const __m512i high = _mm512_cvtps_epi32(_mm512_mul_ps(second, inverse));
  const __m256i q = _mm256_set_m128i(_mm512_cvtepi32_epi8(high), _mm512_cvtepi32_epi8(low));
  const __m512i fours =
      _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi8(1), _mm512_zextsi256_si512(q));
  total = step * static_cast<float>(_mm512_reduce_add_epi32(fours));
  return q;
}

PTUNE_INLINE void round_all(const float* x, size_t count, const BlockRow& row, size_t block) {
  for (size_t k = 0; k < count; k += kOfABlock, ++block) {
    const size_t left = count - k;
    const __m512 first = _mm512_maskz_loadu_ps(first_of_16(left), x + k);
    const __m512 second = _mm512_maskz_loadu_ps(left > 16 ? first_of_16(left - 16) : 0, x + k + 16);
    const __m256i q = round_block(first, second, row.step[block], row.total[block]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row.q + block * kOfABlock), q);
  }
}

PTUNE_INLINE void round_with_sums(const BlockWeights& w, const float* x, const BlockRow& row) {
  const size_t first = 2 * w.sums / kOfABlock, blocks = w.blocks - first;
  round_all(x, w.in, row, first);
  for (size_t section = 0; section < w.sums; section += kOfABlock) {
    alignas(64) float sums[kOfABlock] = {};
    for (size_t at = 0; at < kOfABlock && section + at < blocks; ++at) {
      const size_t block = first + section + at;
      const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row.q + block * kOfABlock));
      alignas(32) int32_t fours[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(fours),
                         _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q));
      sums[at] = sum_of_block(fours, row.step[block], section + at < blocks / 4 * 4);
    }
    for (const size_t block : {section / kOfABlock, (w.sums + section) / kOfABlock})
      round_all(sums, kOfABlock, row, block);
  }
}

PTUNE_INLINE void errors_of(const BlockWeights& w, const float* x, const BlockRow& row, float* rest) {
  const size_t first = 2 * w.sums / kOfABlock;
  for (size_t k = 0; k < w.in; k += 16) {
    const __mmask16 there = first_of_16(w.in - k);
    const int8_t* q = row.q + first * kOfABlock + k;
    const __m512 rounded = _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(q))));
    const __m512 step = _mm512_set1_ps(row.step[first + k / kOfABlock]);
    _mm512_mask_storeu_ps(rest + k, there,
                          _mm512_sub_ps(_mm512_maskz_loadu_ps(there, x + k), _mm512_mul_ps(rounded, step)));
  }
}

PTUNE_AVX512 void round_rows(const BlockWeights& w, const float* x, const BlockRows& rows, size_t from,
                             size_t to) {
  for (size_t at = from; at < to; ++at) {
    const BlockRow row = row_of(w, rows, at * rows.of_one());
    round_with_sums(w, x + at * w.in, row);
    if (!rows.twice) continue;
    // The errors lie behind the row of their own for as long as that is rounded.
    const BlockRow other = row_of(w, rows, at * 2 + 1);
    float* rest = reinterpret_cast<float*>(rows.bytes + (at * 2 + 1) * rows.stride + row_bytes(w));
    errors_of(w, x + at * w.in, row, rest);
    round_with_sums(w, rest, other);
  }
}

// Four sums of 16 columns each; members, not arrays in loops: GCC 12 leaves those in memory.
struct Four {
  __m512 s0, s1, s2, s3;
};
struct FourOfRows {
  Four a, b, c, d;
};

PTUNE_INLINE __m512i four_of(const int8_t* at) {
  int32_t four;
  std::memcpy(&four, at, 4);
  return _mm512_set1_epi32(four);
}

struct Pair {  // of inputs of a sum: its first four, its others
  __m512i first, other;
};

template <bool kBytes>
PTUNE_INLINE Pair weights_of(const uint8_t* block, size_t sum) {
  if constexpr (kBytes)
    return {_mm512_load_si512(block + sum * 128), _mm512_load_si512(block + sum * 128 + 64)};
  const __m512i both = _mm512_load_si512(block + sum * 64), low = _mm512_set1_epi8(15);
  return {_mm512_and_si512(both, low), _mm512_and_si512(_mm512_srli_epi16(both, 4), low)};
}

PTUNE_INLINE __m512 plus_products(__m512 to, const Pair& w, const int8_t* q, __m512 factor) {
  __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w.first, four_of(q));
  sum = _mm512_dpbusd_epi32(sum, w.other, four_of(q + 8));
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor, to);
}

struct Tile {  // a panel and its rows
  const BlockWeights& w;
  const uint8_t* panel;
  const uint8_t* row;
  size_t stride;  // from row to row

  PTUNE_INLINE const int8_t* q(size_t at, size_t block) const {
    return reinterpret_cast<const int8_t*>(row + at * stride + block * kOfABlock);
  }
  PTUNE_INLINE float step(size_t at, size_t block) const {
    return reinterpret_cast<const float*>(row + at * stride + w.blocks * kOfABlock)[block];
  }
  PTUNE_INLINE __m512 factor(size_t at, size_t block, __m512 scale) const {
    return _mm512_mul_ps(_mm512_set1_ps(step(at, block)), scale);
  }
  PTUNE_INLINE float total(size_t at, size_t block) const { return step(at, w.blocks + block); }
  PTUNE_INLINE const uint8_t* weights(size_t place) const {
    return panel + w.scale_bytes() + w.zero_bytes() + place * w.block_bytes();
  }
  PTUNE_INLINE __m512 scale(size_t block) const {
    if (block < w.wide) return _mm512_load_ps(panel + block * 64);
    const uint8_t* half = panel + w.wide * 64 + (block - w.wide) * 32;
    return _mm512_cvtph_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(half)));
  }
};

template <size_t kRows, bool kBytes>
PTUNE_INLINE void add_block(FourOfRows& to, const Tile& tile, const uint8_t* weights, size_t block) {
  // One row waits for memory, which the processor fetches well by itself; several compute meanwhile.
  if constexpr (kRows > 1)
    for (size_t at = 0; at < (kBytes ? 512 : 256); at += 64) _mm_prefetch(weights + kAhead + at, _MM_HINT_T0);
  const __m512 scale = tile.scale(block);
  const __m512 fa = tile.factor(0, block, scale), fb = kRows > 1 ? tile.factor(1, block, scale) : fa,
               fc = kRows > 2 ? tile.factor(2, block, scale) : fa,
               fd = kRows > 3 ? tile.factor(3, block, scale) : fa;
  const int8_t *a = tile.q(0, block), *b = tile.q(1, block), *c = tile.q(2, block), *d = tile.q(3, block);
#define ADD_SUM(sum, at)                                                      \
  {                                                                       \
    const Pair w = weights_of<kBytes>(weights, sum);                      \
    to.a.s##sum = plus_products(to.a.s##sum, w, a + at, fa);              \
    if (kRows > 1) to.b.s##sum = plus_products(to.b.s##sum, w, b + at, fb); \
    if (kRows > 2) to.c.s##sum = plus_products(to.c.s##sum, w, c + at, fc); \
    if (kRows > 3) to.d.s##sum = plus_products(to.d.s##sum, w, d + at, fd); \
  }
  ADD_SUM(0, 0)
  ADD_SUM(1, 4)
  ADD_SUM(2, 16)
  ADD_SUM(3, 20)
#undef ADD_SUM
}

struct Sums {  // d[h, w, j] of one row, and its c
  __m512 d[2][2][2], c;
};

template <size_t kRows, bool kBytes>
PTUNE_INLINE FourOfRows at_place(const Tile& tile, size_t place) {
  const size_t fours = tile.w.fours();
  const uint8_t* weights = tile.weights(place * fours);
  const __m512 zero = _mm512_setzero_ps();
  const Four none{zero, zero, zero, zero};
  FourOfRows sums{none, none, none, none};
  for (size_t four = 0; four < fours; ++four, weights += kBytes ? 512 : 256)
    add_block<kRows, kBytes>(sums, tile, weights, 4 * four + place);
  return sums;
}

PTUNE_INLINE void store(Sums& to, size_t which, const Four& even, const Four& odd) {
  to.d[0][which][0] = _mm512_add_ps(even.s0, odd.s0);
  to.d[0][which][1] = _mm512_add_ps(even.s1, odd.s1);
  to.d[1][which][0] = _mm512_add_ps(even.s2, odd.s2);
  to.d[1][which][1] = _mm512_add_ps(even.s3, odd.s3);
}

template <size_t kRows, bool kBytes>
PTUNE_INLINE void whole_fours(const Tile& tile, Sums* sums) {
  for (size_t which = 0; which < 2; ++which) {
    const FourOfRows even = at_place<kRows, kBytes>(tile, 2 * which);
    const FourOfRows odd = at_place<kRows, kBytes>(tile, 2 * which + 1);
    store(sums[0], which, even.a, odd.a);
    if constexpr (kRows > 1) store(sums[1], which, even.b, odd.b);
    if constexpr (kRows > 2) store(sums[2], which, even.c, odd.c);
    if constexpr (kRows > 3) store(sums[3], which, even.d, odd.d);
  }
}

template <size_t kRows, bool kBytes>
PTUNE_INLINE void the_rest(const Tile& tile, Sums* sums) {
  for (size_t block = 4 * tile.w.fours(); block < tile.w.blocks; ++block) {
    const uint8_t* weights = tile.weights(block);
    const __m512 scale = tile.scale(block);
    for (size_t sum = 0; sum < 4; ++sum) {
      const Pair w = weights_of<kBytes>(weights, sum);
      for (size_t row = 0; row < kRows; ++row) {
        const __m512 factor = tile.factor(row, block, scale);
        const int8_t* q = tile.q(row, block) + 16 * (sum / 2) + 4 * (sum % 2);
        __m512 &first = sums[row].d[sum / 2][0][sum % 2], &other = sums[row].d[sum / 2][1][sum % 2];
        const __m512i none = _mm512_setzero_si512();
        const __m512i of_first = _mm512_dpbusd_epi32(none, w.first, four_of(q));
        const __m512i of_other = _mm512_dpbusd_epi32(none, w.other, four_of(q + 8));
        first = _mm512_fmadd_ps(_mm512_cvtepi32_ps(of_first), factor, first);
        other = _mm512_fmadd_ps(_mm512_cvtepi32_ps(of_other), factor, other);
      }
    }
  }
}

template <size_t kRows>
PTUNE_INLINE void zeros(const Tile& tile, Sums* sums) {
  const BlockWeights& w = tile.w;
  const __m512 less = _mm512_set_ps(-15, -14, -13, -12, -11, -10, -9, -8, -7, -6, -5, -4, -3, -2, -1, -0.0f);
  const uint8_t* packed = tile.panel + w.scale_bytes();
  const __m512 zero = _mm512_setzero_ps();
  __m512 a = zero, b = zero, c = zero, d = zero, minus = _mm512_set1_ps(-w.zero);
  __m512i eight = _mm512_setzero_si512();
  for (size_t block = 0; block < w.blocks; ++block) {
    if (w.zeros) {
      eight = block % 8 == 0 ? _mm512_load_si512(packed + block * 8) : _mm512_srli_epi32(eight, 4);
      minus = _mm512_permutexvar_ps(eight, less);
    }
    const __m512 product = _mm512_mul_ps(tile.scale(block), minus);
    a = _mm512_fmadd_ps(_mm512_set1_ps(tile.total(0, block)), product, a);
    if (kRows > 1) b = _mm512_fmadd_ps(_mm512_set1_ps(tile.total(1, block)), product, b);
    if (kRows > 2) c = _mm512_fmadd_ps(_mm512_set1_ps(tile.total(2, block)), product, c);
    if (kRows > 3) d = _mm512_fmadd_ps(_mm512_set1_ps(tile.total(3, block)), product, d);
  }
  sums[0].c = a;
  if constexpr (kRows > 1) sums[1].c = b;
  if constexpr (kRows > 2) sums[2].c = c;
  if constexpr (kRows > 3) sums[3].c = d;
}

PTUNE_INLINE __m512 of_half(const __m512 (&d)[2][2]) {
  return _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(d[0][0], d[0][1]), d[1][0]), d[1][1]);
}

// last: the columns that are added up as the last ones are.
PTUNE_INLINE __m512 total_of(const Sums& sums, __mmask16 last) {
  __m512 all = _mm512_add_ps(of_half(sums.d[0]), of_half(sums.d[1]));
  if (last != 0) {
    __m512 t[2][2];
    for (size_t which = 0; which < 2; ++which)
      for (size_t j = 0; j < 2; ++j) t[which][j] = _mm512_add_ps(sums.d[0][which][j], sums.d[1][which][j]);
    all = _mm512_mask_add_ps(all, last, _mm512_add_ps(t[0][0], t[1][0]), _mm512_add_ps(t[0][1], t[1][1]));
  }
  return _mm512_add_ps(sums.c, all);
}

template <size_t kRows, bool kBytes>
PTUNE_AVX512 void tile_product(const Tile& tile, __mmask16 last, __m512* y) {
  Sums sums[kRows];
  zeros<kRows>(tile, sums);
  whole_fours<kRows, kBytes>(tile, sums);
  the_rest<kRows, kBytes>(tile, sums);
  for (size_t row = 0; row < kRows; ++row) y[row] = total_of(sums[row], last);
}

using TileProduct = decltype(&tile_product<1, false>);
const TileProduct kTileProducts[2][kMostRows] = {
    {tile_product<1, false>, tile_product<2, false>, tile_product<3, false>, tile_product<4, false>},
    {tile_product<1, true>, tile_product<2, true>, tile_product<3, true>, tile_product<4, true>}};

PTUNE_AVX512 void product(const BlockWeights& w, const BlockRows& rows, float* y, size_t from, size_t to) {
  const size_t all = rows.count * rows.of_one(), of_one = rows.of_one();
  for (size_t panel = from; panel < to; ++panel) {
    const size_t first = panel * kOfAPanel, columns = w.columns_of(panel);
    const __mmask16 there = first_of_16(columns);
    const __mmask16 last = columns % 4 ? there & ~first_of_16(columns / 4 * 4) : 0;
    for (size_t row = 0; row < all; row += kMostRows) {
      const size_t count = std::min(all - row, kMostRows);
      const Tile tile{w, w.bytes + panel * w.panel_bytes(), rows.bytes + row * rows.stride, rows.stride};
      __m512 found[kMostRows];
      kTileProducts[w.bits == 8][count - 1](tile, last, found);
      for (size_t at = 0; at < count; at += of_one) {
        const __m512 value = rows.twice ? _mm512_add_ps(found[at], found[at + 1]) : found[at];
        _mm512_mask_storeu_ps(y + (row + at) / of_one * w.out + first, there, value);
      }
    }
  }
}

}  // namespace

const BlockKernel kAvx512Blocks{"avx512", has_avx512, round_rows, product};

}  // namespace ptune

#endif
