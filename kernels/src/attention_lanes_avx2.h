// Sixteen numbers at once in two registers, with AVX2: the same bits as attention_lanes_plain.h.
#pragma once

#include "avx2.h"

namespace ptune {
namespace {

using Mask = uint16_t;

struct Lanes {
  __m256 low, high;
};

// What registers hold at once: of sums of values, so many vectors of so many rows; of scores, so many rows.
constexpr size_t vectors_of_sums(size_t rows) { return rows == 1 ? 4 : rows <= 3 ? 2 : 1; }
constexpr size_t kRowsOfTree = 3;

struct Chosen {  // of sixteen lanes, all bits of one or none
  __m256 low, high;
};

PTUNE_AVX2_INLINE __m256 chosen_of(uint32_t bits) {
  const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i there = _mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), bit);
  return _mm256_castsi256_ps(_mm256_cmpeq_epi32(there, bit));
}
PTUNE_AVX2_INLINE Chosen chosen(Mask there) {
  return {chosen_of(there & 255u), chosen_of(static_cast<uint32_t>(there) >> 8)};
}

PTUNE_AVX2_INLINE Mask first_lanes(size_t count) {
  return count < 16 ? static_cast<Mask>((1u << count) - 1) : 0xffff;
}
PTUNE_AVX2_INLINE Lanes each(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
PTUNE_AVX2_INLINE Lanes zeros() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
PTUNE_AVX2_INLINE Lanes load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
PTUNE_AVX2_INLINE Lanes load(const float* from, Mask there) {
  if (there == 0xffff) return load(from);
  const Chosen of = chosen(there);
  return {_mm256_maskload_ps(from, _mm256_castps_si256(of.low)),
          _mm256_maskload_ps(from + 8, _mm256_castps_si256(of.high))};
}
PTUNE_AVX2_INLINE Lanes load(const int8_t* from) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_unpackhi_epi64(bytes, bytes)))};
}
PTUNE_AVX2_INLINE Lanes load(const int8_t* from, Mask there) {
  if (there == 0xffff) return load(from);
  int8_t bytes[16] = {};
  for (size_t i = 0; i < 16; ++i)
    if (there >> i & 1) bytes[i] = from[i];
  return load(bytes);
}
PTUNE_AVX2_INLINE void store(float* to, Lanes a) {
  _mm256_storeu_ps(to, a.low);
  _mm256_storeu_ps(to + 8, a.high);
}
PTUNE_AVX2_INLINE void store(float* to, Lanes a, Mask there) {
  if (there == 0xffff) return store(to, a);
  const Chosen of = chosen(there);
  _mm256_maskstore_ps(to, _mm256_castps_si256(of.low), a.low);
  _mm256_maskstore_ps(to + 8, _mm256_castps_si256(of.high), a.high);
}
PTUNE_AVX2_INLINE __m256i limited(__m256 a) {  // NaN becomes the least
  return _mm256_cvtps_epi32(_mm256_min_ps(_mm256_max_ps(a, _mm256_set1_ps(-128)), _mm256_set1_ps(127)));
}
PTUNE_AVX2_INLINE void store(int8_t* to, Lanes a, Mask there) {
  const __m256i words = _mm256_packs_epi32(limited(a.low), limited(a.high));
  const __m256i in_order = _mm256_permute4x64_epi64(words, 0xd8);
  alignas(16) int8_t bytes[16];
  _mm_store_si128(reinterpret_cast<__m128i*>(bytes),
                  _mm_packs_epi16(_mm256_castsi256_si128(in_order), _mm256_extracti128_si256(in_order, 1)));
  if (there == 0xffff)
    std::memcpy(to, bytes, 16);
  else
    for (size_t i = 0; i < 16; ++i)
      if (there >> i & 1) to[i] = bytes[i];
}
PTUNE_AVX2_INLINE Lanes add(Lanes a, Lanes b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
PTUNE_AVX2_INLINE Lanes sub(Lanes a, Lanes b) {
  return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
PTUNE_AVX2_INLINE Lanes mul(Lanes a, Lanes b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
PTUNE_AVX2_INLINE Lanes divide(Lanes a, Lanes b) {
  return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
PTUNE_AVX2_INLINE Lanes fma(Lanes a, Lanes b, Lanes c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
PTUNE_AVX2_INLINE Lanes larger(Lanes a, Lanes b) {
  return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
PTUNE_AVX2_INLINE Lanes keep(Chosen there, Lanes a, Lanes other) {
  return {_mm256_blendv_ps(other.low, a.low, there.low), _mm256_blendv_ps(other.high, a.high, there.high)};
}
PTUNE_AVX2_INLINE Lanes keep(Mask there, Lanes a, Lanes other) {
  return there == 0xffff ? a : keep(chosen(there), a, other);
}
PTUNE_AVX2_INLINE Chosen below(Lanes a, float end) {
  const __m256 limit = _mm256_set1_ps(end);
  return {_mm256_cmp_ps(a.low, limit, _CMP_LT_OQ), _mm256_cmp_ps(a.high, limit, _CMP_LT_OQ)};
}
PTUNE_AVX2_INLINE Lanes magnitude(Lanes a) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(bit, a.low), _mm256_andnot_ps(bit, a.high)};
}
PTUNE_AVX2_INLINE Lanes with_sign_of(Lanes a, Lanes sign) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  const Lanes size = magnitude(a);
  return {_mm256_or_ps(size.low, _mm256_and_ps(bit, sign.low)),
          _mm256_or_ps(size.high, _mm256_and_ps(bit, sign.high))};
}
PTUNE_AVX2_INLINE Lanes nearest(Lanes a) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.low, kNearest), _mm256_round_ps(a.high, kNearest)};
}
// Only where a and the product are normal numbers or NaN, as from kLeastExponent on.
PTUNE_AVX2_INLINE __m256 times_two_to(__m256 a, __m256 whole) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
  return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
PTUNE_AVX2_INLINE Lanes times_two_to(Lanes a, Lanes whole) {
  return {times_two_to(a.low, whole.low), times_two_to(a.high, whole.high)};
}

// Sums of lanes, for the lanes of several vectors at once: in four stages, 8, 4, 2 and 1 apart.
template <size_t Stage>
PTUNE_AVX2_INLINE __m256 half_of(__m256 a, __m256 b) {
  if constexpr (Stage == 2)
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  else if constexpr (Stage == 3)
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
  else
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
}
template <size_t Stage>
PTUNE_AVX2_INLINE Lanes halves(Lanes a, Lanes b) {
  if constexpr (Stage == 1)
    return {_mm256_add_ps(a.low, a.high), _mm256_add_ps(b.low, b.high)};
  else if constexpr (Stage == 2)
    return {half_of<2>(a.low, a.high), half_of<2>(b.low, b.high)};
  else
    return {half_of<Stage>(a.low, b.low), half_of<Stage>(a.high, b.high)};
}
// After the last two stages a group of four lanes holds every fourth key.
PTUNE_AVX2_INLINE Lanes in_order(Lanes a) {
  __m128 rows[4] = {_mm256_castps256_ps128(a.low), _mm256_extractf128_ps(a.low, 1),
                    _mm256_castps256_ps128(a.high), _mm256_extractf128_ps(a.high, 1)};
  _MM_TRANSPOSE4_PS(rows[0], rows[1], rows[2], rows[3]);
  return {_mm256_set_m128(rows[1], rows[0]), _mm256_set_m128(rows[3], rows[2])};
}

PTUNE_AVX2_INLINE void transpose(__m256 (&rows)[8]) {
  __m256 a[8], b[8];
#pragma GCC unroll 4
  for (size_t i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    a[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
  }
#pragma GCC unroll 2
  for (size_t i = 0; i < 8; i += 4)
#pragma GCC unroll 2
    for (size_t j = 0; j < 2; ++j) {
      b[i + 2 * j] = _mm256_shuffle_ps(a[i + j], a[i + 2 + j], 0x44);
      b[i + 2 * j + 1] = _mm256_shuffle_ps(a[i + j], a[i + 2 + j], 0xee);
    }
#pragma GCC unroll 4
  for (size_t j = 0; j < 4; ++j) {
    rows[j] = _mm256_permute2f128_ps(b[j], b[4 + j], 0x20);
    rows[4 + j] = _mm256_permute2f128_ps(b[j], b[4 + j], 0x31);
  }
}

// By quarters, of which two change places.
PTUNE_AVX2_INLINE void transpose(Lanes (&rows)[16]) {
  __m256 above[8], right[8], below[8], corner[8];
#pragma GCC unroll 8
  for (size_t i = 0; i < 8; ++i) {
    above[i] = rows[i].low, right[i] = rows[i].high;
    below[i] = rows[8 + i].low, corner[i] = rows[8 + i].high;
  }
  transpose(above), transpose(right), transpose(below), transpose(corner);
#pragma GCC unroll 8
  for (size_t i = 0; i < 8; ++i) {
    rows[i] = {above[i], below[i]};
    rows[8 + i] = {right[i], corner[i]};
  }
}

}  // namespace
}  // namespace ptune
