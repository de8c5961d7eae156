// Sixteen numbers at once, with AVX-512: the same bits as attention_lanes_plain.h.
#pragma once

#include "avx512.h"

namespace ptune {
namespace {

using Mask = __mmask16;
using Lanes = __m512;

// What registers hold at once: of sums of values, so many vectors of so many rows; of scores, so many rows.
constexpr size_t vectors_of_sums(size_t) { return 4; }
constexpr size_t kRowsOfTree = 4;

PTUNE_INLINE Mask first_lanes(size_t count) {
  return count < 16 ? static_cast<Mask>((1u << count) - 1) : 0xffff;
}
PTUNE_INLINE Lanes each(float value) { return _mm512_set1_ps(value); }
PTUNE_INLINE Lanes zeros() { return _mm512_setzero_ps(); }
PTUNE_INLINE Lanes load(const float* from) { return _mm512_loadu_ps(from); }
PTUNE_INLINE Lanes load(const float* from, Mask there) { return _mm512_maskz_loadu_ps(there, from); }
PTUNE_INLINE Lanes load(const int8_t* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
}
PTUNE_INLINE Lanes load(const int8_t* from, Mask there) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(there, from)));
}
PTUNE_INLINE void store(float* to, Lanes a) { _mm512_storeu_ps(to, a); }
PTUNE_INLINE void store(float* to, Lanes a, Mask there) { _mm512_mask_storeu_ps(to, there, a); }
PTUNE_INLINE void store(int8_t* to, Lanes a, Mask there) {
  // Limited as floats: what is no int32 would become the least one.
  const __m512 limited = _mm512_min_ps(_mm512_max_ps(a, each(-128)), each(127));
  _mm_mask_storeu_epi8(to, there, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(limited)));
}
PTUNE_INLINE Lanes add(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
PTUNE_INLINE Lanes sub(Lanes a, Lanes b) { return _mm512_sub_ps(a, b); }
PTUNE_INLINE Lanes mul(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
PTUNE_INLINE Lanes divide(Lanes a, Lanes b) { return _mm512_div_ps(a, b); }
PTUNE_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
PTUNE_INLINE Lanes larger(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
PTUNE_INLINE Lanes keep(Mask there, Lanes a, Lanes other) { return _mm512_mask_blend_ps(there, other, a); }
PTUNE_INLINE Mask below(Lanes a, float end) { return _mm512_cmp_ps_mask(a, each(end), _CMP_LT_OQ); }
PTUNE_INLINE Lanes magnitude(Lanes a) { return _mm512_abs_ps(a); }
PTUNE_INLINE Lanes with_sign_of(Lanes a, Lanes sign) {
  const __m512 bit = _mm512_set1_ps(-0.0f);
  return _mm512_or_ps(_mm512_andnot_ps(bit, a), _mm512_and_ps(bit, sign));
}
PTUNE_INLINE Lanes nearest(Lanes a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
PTUNE_INLINE Lanes times_two_to(Lanes a, Lanes whole) { return _mm512_scalef_ps(a, whole); }

// Sums of lanes, for the lanes of several vectors at once: in four stages, 8, 4, 2 and 1 apart.
template <size_t Stage>
PTUNE_INLINE Lanes halves(Lanes a, Lanes b) {
  if constexpr (Stage == 1)
    return add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
  else if constexpr (Stage == 2)
    return add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  else if constexpr (Stage == 3)
    return add(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
               _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))));
  else
    return add(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}
// After the last two stages a group of four lanes holds every fourth key.
PTUNE_INLINE Lanes in_order(Lanes a) {
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), a);
}

PTUNE_INLINE void transpose(Lanes (&rows)[16]) {
  __m512 a[16], b[16];
#pragma GCC unroll 8
  for (size_t i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    a[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (size_t j = 0; j < 2; ++j) {
      const __m512d low = _mm512_castps_pd(a[i + j]), high = _mm512_castps_pd(a[i + 2 + j]);
      b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
#pragma GCC unroll 4
  for (size_t j = 0; j < 4; ++j) {
    const __m512 even = _mm512_shuffle_f32x4(b[j], b[4 + j], 0x88),
                 odd = _mm512_shuffle_f32x4(b[j], b[4 + j], 0xdd);
    const __m512 next = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0x88);
    const __m512 last = _mm512_shuffle_f32x4(b[8 + j], b[12 + j], 0xdd);
    rows[j] = _mm512_shuffle_f32x4(even, next, 0x88);
    rows[8 + j] = _mm512_shuffle_f32x4(even, next, 0xdd);
    rows[4 + j] = _mm512_shuffle_f32x4(odd, last, 0x88);
    rows[12 + j] = _mm512_shuffle_f32x4(odd, last, 0xdd);
  }
}

}  // namespace
}  // namespace ptune
