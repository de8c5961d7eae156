// Low-rank updates with AVX-512. Factors are read from the first number to the last, in the order in which
// they lie: the processor then fetches them by itself as fast as memory delivers them, and hints only slow
// it down.
#include "low_rank.h"

#include <algorithm>

#if defined(__x86_64__)
#include "avx512.h"

namespace ptune {
namespace {

template <typename Number>
PTUNE_INLINE __m512 sixteen(const Number* from);

template <>
PTUNE_INLINE __m512 sixteen(const float* from) {
  return _mm512_loadu_ps(from);
}

template <>
PTUNE_INLINE __m512 sixteen(const uint16_t* from) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
}

template <typename Number>
PTUNE_INLINE __m512 some(const Number* from, __mmask16 there);

template <>
PTUNE_INLINE __m512 some(const float* from, __mmask16 there) {
  return _mm512_maskz_loadu_ps(there, from);
}

template <>
PTUNE_INLINE __m512 some(const uint16_t* from, __mmask16 there) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(there, from));
}

// 16 numbers of a factor, or as many as are there.
template <typename Number, bool kWhole>
PTUNE_INLINE __m512 numbers(const Number* from, __mmask16 there) {
  if constexpr (kWhole)
    return sixteen(from);
  else
    return some(from, there);
}

PTUNE_INLINE void write_low(const Sharing& rows, size_t row, size_t r, __mmask16 there,
                            const __m512* sums) {
  const __m512 sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
  __m512 low = _mm512_mul_ps(sum, _mm512_maskz_loadu_ps(there, rows.mask[row] + r));
  if (rows.ones[row] != nullptr) low = _mm512_add_ps(low, _mm512_maskz_loadu_ps(there, rows.ones[row] + r));
  _mm512_mask_storeu_ps(rows.low[row] + r, there, low);
}

// Columns of x A from r on: kVectors times 16, or those of one vector that are there.
template <typename Number, size_t kRows, size_t kVectors, bool kWhole>
PTUNE_INLINE void down_columns(const Factors& f, const Sharing& rows, size_t r, __mmask16 there) {
  const Number* a = static_cast<const Number*>(f.a) + r;
  __m512 sums[kRows][kVectors][4];
  for (size_t row = 0; row < kRows; ++row)
    for (size_t v = 0; v < kVectors; ++v)
      for (size_t part = 0; part < 4; ++part) sums[row][v][part] = _mm512_setzero_ps();
  for (size_t k = 0; k < f.in; k += 4)
#pragma GCC unroll 4
    for (size_t part = 0; part < 4; ++part) {
      if (k + part >= f.in) break;
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) {
        const __m512 factor = numbers<Number, kWhole>(a + (k + part) * f.rank + 16 * v, there);
#pragma GCC unroll 4
        for (size_t row = 0; row < kRows; ++row)
          sums[row][v][part] =
              _mm512_fmadd_ps(_mm512_set1_ps(rows.x[row][k + part]), factor, sums[row][v][part]);
      }
    }
  for (size_t row = 0; row < kRows; ++row)
    for (size_t v = 0; v < kVectors; ++v) write_low(rows, row, r + 16 * v, there, sums[row][v]);
}

template <typename Number, size_t kRows>
PTUNE_AVX512 void down(const Factors& f, const Sharing& rows) {
  constexpr size_t kVectors = kRows == 1 ? 4 : kRows == 2 ? 2 : 1;  // by the registers for their sums
  size_t r = 0;
  for (; r + 16 * kVectors <= f.rank; r += 16 * kVectors)
    down_columns<Number, kRows, kVectors, true>(f, rows, r, 0xffff);
  for (; r + 16 <= f.rank; r += 16) down_columns<Number, kRows, 1, true>(f, rows, r, 0xffff);
  if (r < f.rank) down_columns<Number, kRows, 1, false>(f, rows, r, first_of_16(f.rank - r));
}

// Columns of a panel, whose lines have `width` numbers: kVectors times 16, or those of one vector that are
// there.
template <typename Number, size_t kRows, size_t kVectors, bool kWhole>
PTUNE_INLINE void up_columns(const Factors& f, const Sharing& rows, const Number* b, size_t width, size_t j,
                             __mmask16 there) {
  __m512 sums[kRows][kVectors];
  for (size_t row = 0; row < kRows; ++row)
    for (size_t v = 0; v < kVectors; ++v) sums[row][v] = _mm512_setzero_ps();
  for (size_t r = 0; r < f.rank; ++r, b += width)
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      const __m512 factor = numbers<Number, kWhole>(b + 16 * v, there);
#pragma GCC unroll 4
      for (size_t row = 0; row < kRows; ++row)
        sums[row][v] = _mm512_fmadd_ps(_mm512_set1_ps(rows.low[row][r]), factor, sums[row][v]);
    }
  for (size_t row = 0; row < kRows; ++row)
    for (size_t v = 0; v < kVectors; ++v) {
      const size_t at = j + 16 * v;
      const __m512 base = _mm512_maskz_loadu_ps(there, rows.y[row] + at);
      _mm512_mask_storeu_ps(rows.y[row] + at, there, _mm512_add_ps(base, sums[row][v]));
    }
}

template <typename Number, size_t kRows>
PTUNE_AVX512 void up(const Factors& f, const Sharing& rows, size_t from, size_t to) {
  static_assert(kPanelOfB == 64, "four vectors");
  while (from < to) {
    const size_t panel = from / kPanelOfB * kPanelOfB, width = std::min(kPanelOfB, f.out - panel);
    const size_t end = std::min(to, panel + width);
    const Number* b = static_cast<const Number*>(f.b) + panel * f.rank + (from - panel);
    if (end - from == kPanelOfB) {
      up_columns<Number, kRows, 4, true>(f, rows, b, kPanelOfB, from, 0xffff);
      from = end;
    } else {
      up_columns<Number, kRows, 1, false>(f, rows, b, width, from, first_of_16(end - from));
      from = std::min(end, from + 16);
    }
  }
}

template <typename Number>
void down_of(const Factors& f, const Sharing& rows) {
  constexpr void (*by_rows[])(const Factors&, const Sharing&) = {down<Number, 1>, down<Number, 2>,
                                                                 down<Number, 3>, down<Number, 4>};
  by_rows[rows.count - 1](f, rows);
}

template <typename Number>
void up_of(const Factors& f, const Sharing& rows, size_t from, size_t to) {
  constexpr void (*by_rows[])(const Factors&, const Sharing&, size_t, size_t) = {
      up<Number, 1>, up<Number, 2>, up<Number, 3>, up<Number, 4>};
  by_rows[rows.count - 1](f, rows, from, to);
}

void any_down(const Factors& f, const Sharing& rows) {
  f.halves ? down_of<uint16_t>(f, rows) : down_of<float>(f, rows);
}

void any_up(const Factors& f, const Sharing& rows, size_t from, size_t to) {
  f.halves ? up_of<uint16_t>(f, rows, from, to) : up_of<float>(f, rows, from, to);
}

}  // namespace

const LowRankKernel kAvx512LowRank = {any_down, any_up};

}  // namespace ptune
#endif
