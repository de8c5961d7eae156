// AVX-VNNI: one instruction adds four products of bytes in each of eight columns.
#if defined(__x86_64__)

#include "avx_vnni.h"

#define PTUNE_KERNEL PTUNE_AVX_VNNI
#define PTUNE_PART PTUNE_AVX_VNNI_INLINE

namespace ptune {
namespace {

constexpr size_t kBlock = 3;  // rows

struct Step {  // four high bytes, four low ones
  static constexpr size_t kBytes = 8;
};

PTUNE_PART void store_steps(uint8_t* to, size_t stride, __m256i high, __m256i low) {
  const __m256i bytes = _mm256_packs_epi16(high, low);  // in each half eight high ones, eight low ones
  const __m256i steps = _mm256_shuffle_epi32(bytes, 0xd8);
  const __m128i first = _mm256_castsi256_si128(steps), second = _mm256_extracti128_si256(steps, 1);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), first);
  _mm_storeh_pd(reinterpret_cast<double*>(to + stride), _mm_castsi128_pd(first));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to + 2 * stride), second);
  _mm_storeh_pd(reinterpret_cast<double*>(to + 3 * stride), _mm_castsi128_pd(second));
}

struct RowSums {  // of the first and the last eight columns of a panel
  __m256i high0, high1, low0, low1;
};

struct TwoOfWeights {
  __m256i first, second;
};

PTUNE_PART TwoOfWeights weights_at(const uint8_t* at) {
  return {_mm256_load_si256(reinterpret_cast<const __m256i*>(at)),
          _mm256_load_si256(reinterpret_cast<const __m256i*>(at + 32))};
}

PTUNE_PART void add_step(RowSums& sums, const TwoOfWeights& w, const uint8_t* x) {
  const __m256i high = four_in_each(x), low = four_in_each(x + 4);
  sums.high0 = plus_four_products(sums.high0, w.first, high);
  sums.high1 = plus_four_products(sums.high1, w.second, high);
  sums.low0 = plus_four_products(sums.low0, w.first, low);
  sums.low1 = plus_four_products(sums.low1, w.second, low);
}

}  // namespace
}  // namespace ptune

// What a step is comes first.
#include "product_ymm.h"

namespace ptune {

const Kernel kAvxVnni{"avx_vnni",   kBlock,     Step::kBytes / 4, Instructions::kAvxVnni,
                      has_avx_vnni, round_rows, product};

}  // namespace ptune

#endif
