// Low-rank updates with AVX2, eight numbers at once. Sums lie in registers, of which there are sixteen: four
// rows meet columns of A two by two, and B in halves of a panel.
#include "low_rank.h"

#include <algorithm>

#if defined(__x86_64__)
#include "avx2.h"

namespace ptune {
namespace {

PTUNE_AVX2_INLINE __m256 eight(const float* from) { return _mm256_loadu_ps(from); }

PTUNE_AVX2_INLINE __m256 eight(const uint16_t* from) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

PTUNE_AVX2_INLINE __m256 some(const float* from, size_t count) { return load_some(from, count); }

PTUNE_AVX2_INLINE __m256 some(const uint16_t* from, size_t count) {
  if (count >= 8) return eight(from);
  alignas(16) uint16_t halves[8] = {};
  std::memcpy(halves, from, count * sizeof(uint16_t));
  return eight(halves);
}

// Eight numbers of a factor, or as many as are there.
template <typename Number, bool kWhole>
PTUNE_AVX2_INLINE __m256 numbers(const Number* from, size_t count) {
  if constexpr (kWhole)
    return eight(from);
  else
    return some(from, count);
}

PTUNE_AVX2_INLINE void write_low(const Sharing& rows, size_t row, size_t r, size_t count,
                                 const __m256* sums) {
  const __m256 sum = _mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3]));
  __m256 low = _mm256_mul_ps(sum, load_some(rows.mask[row] + r, count));
  if (rows.ones[row] != nullptr) low = _mm256_add_ps(low, load_some(rows.ones[row] + r, count));
  store_some(rows.low[row] + r, low, count);
}

// Columns of x A from r on, of kRows rows from `first` on: kVectors times 8, or those of one vector that are
// there.
template <typename Number, size_t kRows, size_t kVectors, bool kWhole>
PTUNE_AVX2_INLINE void down_columns(const Factors& f, const Sharing& rows, size_t first, size_t r,
                                    size_t count) {
  const Number* a = static_cast<const Number*>(f.a) + r;
  __m256 sums[kRows][kVectors][4];
  for (size_t row = 0; row < kRows; ++row)
    for (size_t v = 0; v < kVectors; ++v)
      for (size_t part = 0; part < 4; ++part) sums[row][v][part] = _mm256_setzero_ps();
  for (size_t k = 0; k < f.in; k += 4)
#pragma GCC unroll 4
    for (size_t part = 0; part < 4; ++part) {
      if (k + part >= f.in) break;
#pragma GCC unroll 2
      for (size_t v = 0; v < kVectors; ++v) {
        const __m256 factor = numbers<Number, kWhole>(a + (k + part) * f.rank + 8 * v, count);
#pragma GCC unroll 3
        for (size_t row = 0; row < kRows; ++row)
          sums[row][v][part] =
              _mm256_fmadd_ps(_mm256_set1_ps(rows.x[first + row][k + part]), factor, sums[row][v][part]);
      }
    }
  for (size_t row = 0; row < kRows; ++row)
    for (size_t v = 0; v < kVectors; ++v) write_low(rows, first + row, r + 8 * v, count, sums[row][v]);
}

template <typename Number, size_t kRows>
PTUNE_AVX2 void down(const Factors& f, const Sharing& rows, size_t first) {
  constexpr size_t kVectors = kRows == 1 ? 2 : 1;
  size_t r = 0;
  for (; r + 8 * kVectors <= f.rank; r += 8 * kVectors)
    down_columns<Number, kRows, kVectors, true>(f, rows, first, r, 8);
  for (; r + 8 <= f.rank; r += 8) down_columns<Number, kRows, 1, true>(f, rows, first, r, 8);
  if (r < f.rank) down_columns<Number, kRows, 1, false>(f, rows, first, r, f.rank - r);
}

// Columns of a panel, whose lines have `width` numbers: kVectors times 8, or those of one vector that are
// there.
template <typename Number, size_t kRows, size_t kVectors, bool kWhole>
PTUNE_AVX2_INLINE void up_columns(const Factors& f, const Sharing& rows, const Number* b, size_t width,
                                  size_t j, size_t count) {
  __m256 sums[kRows][kVectors];
  for (size_t row = 0; row < kRows; ++row)
    for (size_t v = 0; v < kVectors; ++v) sums[row][v] = _mm256_setzero_ps();
  for (size_t r = 0; r < f.rank; ++r, b += width)
#pragma GCC unroll 8
    for (size_t v = 0; v < kVectors; ++v) {
      const __m256 factor = numbers<Number, kWhole>(b + 8 * v, count);
#pragma GCC unroll 4
      for (size_t row = 0; row < kRows; ++row)
        sums[row][v] = _mm256_fmadd_ps(_mm256_set1_ps(rows.low[row][r]), factor, sums[row][v]);
    }
  for (size_t row = 0; row < kRows; ++row)
    for (size_t v = 0; v < kVectors; ++v) {
      float* y = rows.y[row] + j + 8 * v;
      store_some(y, _mm256_add_ps(load_some(y, count), sums[row][v]), count);
    }
}

template <typename Number, size_t kRows>
PTUNE_AVX2 void up(const Factors& f, const Sharing& rows, size_t from, size_t to) {
  constexpr size_t kVectors = kRows == 1 ? 8 : kRows == 4 ? 2 : 4;
  static_assert(kPanelOfB == 64, "eight vectors");
  while (from < to) {
    const size_t panel = from / kPanelOfB * kPanelOfB, width = std::min(kPanelOfB, f.out - panel);
    const size_t end = std::min(to, panel + width);
    const Number* b = static_cast<const Number*>(f.b) + panel * f.rank - panel;  // column j is at b + j
    for (; from + 8 * kVectors <= end; from += 8 * kVectors)
      up_columns<Number, kRows, kVectors, true>(f, rows, b + from, width, from, 8);
    for (; from + 8 <= end; from += 8) up_columns<Number, kRows, 1, true>(f, rows, b + from, width, from, 8);
    if (from < end) up_columns<Number, kRows, 1, false>(f, rows, b + from, width, from, end - from);
    from = end;
  }
}

template <typename Number>
void down_of(const Factors& f, const Sharing& rows) {
  if (rows.count == 1) return down<Number, 1>(f, rows, 0);
  if (rows.count == 3) return down<Number, 3>(f, rows, 0);
  for (size_t first = 0; first < rows.count; first += 2) down<Number, 2>(f, rows, first);
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

const LowRankKernel kAvx2LowRank = {any_down, any_up};

}  // namespace ptune
#endif
