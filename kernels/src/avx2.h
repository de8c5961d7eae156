// AVX2 with FMA and F16C, which processors without AVX-512 have: what several kernels need.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#define PTUNE_AVX2 __attribute__((target("avx2,fma,f16c")))
#define PTUNE_AVX2_INLINE __attribute__((target("avx2,fma,f16c"), always_inline)) inline

namespace ptune {

inline bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

// AVX-VNNI is VNNI without AVX-512. Written out with AVX2, to test its kernels on any machine.
inline bool has_avx_vnni() {
#ifdef PTUNE_EMULATED_AVX_VNNI
  return has_avx2();
#else
  return has_avx2() && __builtin_cpu_supports("avxvnni");
#endif
}

// Which of eight lanes are there, as loads and stores want it.
PTUNE_AVX2_INLINE __m256i first_of_8(size_t count) {
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count < 8 ? count : 8)), lanes);
}

// Stores `count` of eight numbers or all of them.
PTUNE_AVX2_INLINE void store_some(float* to, __m256 a, size_t count) {
  if (count >= 8)
    _mm256_storeu_ps(to, a);
  else
    _mm256_maskstore_ps(to, first_of_8(count), a);
}

PTUNE_AVX2_INLINE __m256 load_some(const float* from, size_t count) {
  return count >= 8 ? _mm256_loadu_ps(from) : _mm256_maskload_ps(from, first_of_8(count));
}

PTUNE_AVX2_INLINE __m256i four_in_each(const void* at) {  // four bytes, in every lane
  int32_t four;
  std::memcpy(&four, at, 4);
  return _mm256_set1_epi32(four);
}

PTUNE_AVX2_INLINE int32_t sum_of(__m256i a) {
  __m128i half = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4e));
  half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0xb1));
  return _mm_cvtsi128_si32(half);
}

// Bytes 0 and 2 of each four as two numbers of 16 bits, and bytes 1 and 3. The instruction that multiplies
// bytes in pairs limits their sum to 16 bits; this one's sums are exact.
PTUNE_AVX2_INLINE __m256i even_bytes(__m256i a) { return _mm256_and_si256(a, _mm256_set1_epi16(255)); }
PTUNE_AVX2_INLINE __m256i odd_bytes(__m256i a) { return _mm256_srli_epi16(a, 8); }
PTUNE_AVX2_INLINE __m256i even_signed(__m256i a) { return _mm256_srai_epi16(_mm256_slli_epi16(a, 8), 8); }
PTUNE_AVX2_INLINE __m256i odd_signed(__m256i a) { return _mm256_srai_epi16(a, 8); }

}  // namespace ptune
