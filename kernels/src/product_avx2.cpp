// AVX2: products of numbers of 16 bits, two in each of eight columns at once; bytes become such numbers in
// registers.
#if defined(__x86_64__)

#include "avx2.h"

#define PTUNE_KERNEL PTUNE_AVX2
#define PTUNE_PART PTUNE_AVX2_INLINE

namespace ptune {
namespace {

constexpr size_t kBlock = 2;  // rows

struct Step {  // high bytes 0 and 2, 1 and 3, low ones likewise, each in 16 bits
  static constexpr size_t kBytes = 16;
};

PTUNE_PART void store_steps(uint8_t* to, size_t stride, __m256i high, __m256i low) {
  high = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(high, 0xd8), 0xd8);
  low = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(low, 0xd8), 0xd8);
  const __m256i even = _mm256_unpacklo_epi64(high, low), odd = _mm256_unpackhi_epi64(high, low);
  _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(even));
  _mm_store_si128(reinterpret_cast<__m128i*>(to + stride), _mm256_castsi256_si128(odd));
  _mm_store_si128(reinterpret_cast<__m128i*>(to + 2 * stride), _mm256_extracti128_si256(even, 1));
  _mm_store_si128(reinterpret_cast<__m128i*>(to + 3 * stride), _mm256_extracti128_si256(odd, 1));
}

struct RowSums {  // of the first and the last eight columns of a panel
  __m256i high0, high1, low0, low1;
};

struct TwoOfWeights {
  __m256i even0, odd0, even1, odd1;
};

PTUNE_PART TwoOfWeights weights_at(const uint8_t* at) {
  const __m256i first = _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
  const __m256i second = _mm256_load_si256(reinterpret_cast<const __m256i*>(at + 32));
  return {even_bytes(first), odd_bytes(first), even_bytes(second), odd_bytes(second)};
}

PTUNE_PART void add_products(__m256i& first, __m256i& second, const TwoOfWeights& w, const uint8_t* x) {
  const __m256i even = four_in_each(x), odd = four_in_each(x + 4);
  first = _mm256_add_epi32(first, _mm256_madd_epi16(w.even0, even));
  second = _mm256_add_epi32(second, _mm256_madd_epi16(w.even1, even));
  first = _mm256_add_epi32(first, _mm256_madd_epi16(w.odd0, odd));
  second = _mm256_add_epi32(second, _mm256_madd_epi16(w.odd1, odd));
}

PTUNE_PART void add_step(RowSums& sums, const TwoOfWeights& w, const uint8_t* x) {
  add_products(sums.high0, sums.high1, w, x);
  add_products(sums.low0, sums.low1, w, x + 8);
}

}  // namespace
}  // namespace ptune

// What a step is comes first.
#include "product_ymm.h"

namespace ptune {

const Kernel kAvx2{"avx2", kBlock, Step::kBytes / 4, Instructions::kAvx2, has_avx2, round_rows, product};

}  // namespace ptune

#endif
