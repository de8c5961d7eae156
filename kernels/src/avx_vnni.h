// The instruction of AVX-VNNI, or, to test its kernels on any machine, the same with AVX2.
#pragma once

#include "avx2.h"

#ifdef PTUNE_EMULATED_AVX_VNNI
#define PTUNE_AVX_VNNI PTUNE_AVX2
#define PTUNE_AVX_VNNI_INLINE PTUNE_AVX2_INLINE
#else
#define PTUNE_AVX_VNNI __attribute__((target("avx2,fma,f16c,avxvnni")))
#define PTUNE_AVX_VNNI_INLINE __attribute__((target("avx2,fma,f16c,avxvnni"), always_inline)) inline
#endif

namespace ptune {
namespace {

// Adds four products of unsigned with signed bytes to each of eight sums.
PTUNE_AVX_VNNI_INLINE __m256i plus_four_products(__m256i sums, __m256i bytes, __m256i signed_bytes) {
#ifdef PTUNE_EMULATED_AVX_VNNI
  sums = _mm256_add_epi32(sums, _mm256_madd_epi16(even_bytes(bytes), even_signed(signed_bytes)));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(odd_bytes(bytes), odd_signed(signed_bytes)));
#else
  return _mm256_dpbusd_avx_epi32(sums, bytes, signed_bytes);
#endif
}

}  // namespace
}  // namespace ptune
