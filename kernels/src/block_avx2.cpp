// Blocks with AVX2: rounding, and products of bytes in pairs. Numbers of 4 bits cannot leave 16 bits in such
// a pair; those of 8 bits become numbers of 16 bits first.
#if defined(__x86_64__)

#include <initializer_list>

#include "avx2.h"
#include "block_rounding.h"

#define PTUNE_KERNEL PTUNE_AVX2
#define PTUNE_PART PTUNE_AVX2_INLINE

namespace ptune {
namespace {

struct Pair {  // of inputs of a sum: its first four, its others
  __m256i first, other;
};

template <bool kBytes>
PTUNE_PART __m256i four_of(__m256i weights, const int8_t* q) {
  const __m256i four = four_in_each(q);
  if constexpr (kBytes)
    return _mm256_add_epi32(_mm256_madd_epi16(even_bytes(weights), even_signed(four)),
                            _mm256_madd_epi16(odd_bytes(weights), odd_signed(four)));
  return _mm256_madd_epi16(_mm256_maddubs_epi16(weights, four), _mm256_set1_epi16(1));
}

template <bool kBytes>
PTUNE_PART void two_fours(const Pair& w, const int8_t* q, __m256i& first, __m256i& other) {
  first = four_of<kBytes>(w.first, q);
  other = four_of<kBytes>(w.other, q + 8);
}

template <bool kBytes>
PTUNE_PART __m256i four_products(const Pair& w, const int8_t* q) {
  if constexpr (kBytes) return _mm256_add_epi32(four_of<true>(w.first, q), four_of<true>(w.other, q + 8));
  const __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(w.first, four_in_each(q)),
                                         _mm256_maddubs_epi16(w.other, four_in_each(q + 8)));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

struct Numbers {  // of a block
  __m256 of[4];
};

PTUNE_PART Numbers numbers_of(const float* x, size_t count) {
  Numbers found;
#pragma GCC unroll 4
  for (size_t at = 0; at < 4; ++at)
    found.of[at] = count > 8 * at ? load_some(x + 8 * at, count - 8 * at) : _mm256_setzero_ps();
  return found;
}

PTUNE_PART float largest_of(const Numbers& x) {
  __m256 sizes = _mm256_setzero_ps();
#pragma GCC unroll 4
  for (size_t at = 0; at < 4; ++at)
    sizes = _mm256_max_ps(sizes, _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x.of[at]));
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(sizes), _mm256_extractf128_ps(sizes, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

PTUNE_PART __m256i sums_of_fours(__m256i q) {
  return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q), _mm256_set1_epi16(1));
}

PTUNE_PART __m256i rounded(__m256 x, __m256 inverse) {  // what is no number becomes 0
  return _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(x, inverse)), _mm256_set1_epi32(255));
}

PTUNE_PART __m256i round_block(const Numbers& x, float& step, float& total) {
  const float largest = largest_of(x);
  step = largest / 127.0f;
  const __m256 inverse = _mm256_set1_ps(largest != 0 ? 127.0f / largest : 0.0f);
  const __m256i first = _mm256_packus_epi32(rounded(x.of[0], inverse), rounded(x.of[1], inverse));
  const __m256i second = _mm256_packus_epi32(rounded(x.of[2], inverse), rounded(x.of[3], inverse));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i q = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), order);
  total = step * static_cast<float>(sum_of(sums_of_fours(q)));
  return q;
}

PTUNE_PART void round_all(const float* x, size_t count, const BlockRow& row, size_t block) {
  for (size_t k = 0; k < count; k += kOfABlock, ++block) {
    const __m256i q = round_block(numbers_of(x + k, count - k), row.step[block], row.total[block]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(row.q + block * kOfABlock), q);
  }
}

PTUNE_PART void round_with_sums(const BlockWeights& w, const float* x, const BlockRow& row) {
  const size_t first = 2 * w.sums / kOfABlock, blocks = w.blocks - first;
  round_all(x, w.in, row, first);
  for (size_t section = 0; section < w.sums; section += kOfABlock) {
    alignas(32) float sums[kOfABlock] = {};
    for (size_t at = 0; at < kOfABlock && section + at < blocks; ++at) {
      const size_t block = first + section + at;
      const __m256i q = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row.q + block * kOfABlock));
      alignas(32) int32_t fours[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(fours), sums_of_fours(q));
      sums[at] = sum_of_block(fours, row.step[block], section + at < blocks / 4 * 4);
    }
    for (const size_t block : {section / kOfABlock, (w.sums + section) / kOfABlock})
      round_all(sums, kOfABlock, row, block);
  }
}

PTUNE_PART void errors_of(const BlockWeights& w, const float* x, const BlockRow& row, float* rest) {
  const size_t first = 2 * w.sums / kOfABlock;
  for (size_t k = 0; k < w.in; k += 8) {
    const size_t left = w.in - k;
    const int8_t* q = row.q + first * kOfABlock + k;
    const __m256 rounded = _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(q))));
    const __m256 step = _mm256_set1_ps(row.step[first + k / kOfABlock]);
    store_some(rest + k, _mm256_sub_ps(load_some(x + k, left), _mm256_mul_ps(rounded, step)), left);
  }
}

PTUNE_KERNEL void round_rows(const BlockWeights& w, const float* x, const BlockRows& rows, size_t from,
                             size_t to) {
  for (size_t at = from; at < to; ++at) {
    const BlockRow row = row_of(w, rows, at * rows.of_one());
    round_with_sums(w, x + at * w.in, row);
    if (!rows.twice) continue;
    // The errors lie behind the row of their own for as long as that is rounded.
    float* rest = reinterpret_cast<float*>(rows.bytes + (at * 2 + 1) * rows.stride + row_bytes(w));
    errors_of(w, x + at * w.in, row, rest);
    round_with_sums(w, rest, row_of(w, rows, at * 2 + 1));
  }
}

}  // namespace
}  // namespace ptune

// How bytes are multiplied comes first.
#include "block_ymm.h"

namespace ptune {

const BlockKernel kAvx2Blocks{"avx2", has_avx2, round_rows, product};

}  // namespace ptune

#endif
