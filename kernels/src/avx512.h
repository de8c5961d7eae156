// AVX-512 that several kernels need: 16 numbers become bytes, 16 pairs of sums become floats.
#pragma once

#include <immintrin.h>

#include "rounding.h"

#define PTUNE_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")))
#define PTUNE_INLINE \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma"), always_inline)) inline

namespace ptune {

inline bool has_avx512() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}

inline __mmask16 first_of_16(size_t count) {
  return count < 16 ? static_cast<__mmask16>((1u << count) - 1) : 0xffff;
}

// Rounds a row, 16 numbers at a time, and hands (k, high bytes, low bytes) to `store`, up to the padding's
// end. Padding becomes 0 in both bytes: it is not in the sums, whatever weights it meets.
template <typename Store>
PTUNE_INLINE void round_row(const float* x, const Weights& w, float fine, int32_t* excess,
                            const Store& store) {
  const __m512i middle = _mm512_set1_epi32(32896), flip = _mm512_set1_epi32(0x80), ones = _mm512_set1_epi8(1);
  __m512i high_sum = _mm512_setzero_si512(), low_sum = high_sum;
  for (size_t k = 0; k < w.depth; k += 16) {
    const __mmask16 there = k < w.in ? first_of_16(w.in - k) : 0;
    __m512 steps = _mm512_div_ps(_mm512_maskz_loadu_ps(there, x + k), _mm512_set1_ps(fine));
    steps = _mm512_min_ps(_mm512_max_ps(steps, _mm512_set1_ps(kLeast)), _mm512_set1_ps(kMost));
    const __m512i q = _mm512_add_epi32(_mm512_cvtps_epi32(steps), middle);
    const __m128i high = _mm512_cvtepi32_epi8(_mm512_maskz_xor_epi32(there, _mm512_srli_epi32(q, 8), flip));
    const __m128i low = _mm512_cvtepi32_epi8(_mm512_maskz_xor_epi32(there, q, flip));
    high_sum = _mm512_dpbusd_epi32(high_sum, ones, _mm512_zextsi128_si512(high));
    low_sum = _mm512_dpbusd_epi32(low_sum, ones, _mm512_zextsi128_si512(low));
    store(k, high, low);
  }
  excess[0] = _mm512_reduce_add_epi32(high_sum) * 128;
  excess[1] = _mm512_reduce_add_epi32(low_sum) * 128;
}

// Writes the columns `there` of a row of y from their sums.
PTUNE_INLINE void finish(__m512i high, __m512i low, const int32_t* excess, const float* multiplier,
                         const float* inverse, float* y, __mmask16 there) {
  const __m512 factor = _mm512_maskz_loadu_ps(there, multiplier);
  const __m512 h =
      _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(high, _mm512_set1_epi32(excess[0]))), factor);
  const __m512 l =
      _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(low, _mm512_set1_epi32(excess[1]))), factor);
  __m512 value = _mm512_add_ps(h, _mm512_mul_ps(l, _mm512_set1_ps(1.0f / 256)));
  if (inverse != nullptr) value = _mm512_div_ps(value, _mm512_set1_ps(*inverse));
  _mm512_mask_storeu_ps(y, there, value);
}

}  // namespace ptune
