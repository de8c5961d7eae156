// The products of attention: queries with keys, weights with values. Few queries read the cache as it lies;
// many read keys that were turned around. Both add alike (attention.h).
#pragma once

#include "attention.h"

namespace ptune {
namespace {

template <size_t Rows>
struct Sums {
  Lanes of[Rows];
};

// Which of a head's numbers lie in the vector that begins at d.
PTUNE_PART Mask there_of(size_t dim, size_t d) { return first_lanes(dim - d); }

// Sums by lanes of one key with `Rows` queries. N: vectors of a query; 0: as `vectors` says.
template <size_t Rows, size_t N, typename Number>
PTUNE_PART Sums<Rows> by_lanes(const float* queries, const Number* key, size_t dim, size_t vectors) {
  const size_t n = N == 0 ? vectors : N, width = 16 * n;
  Sums<Rows> sums;
  const Lanes begun = n > 1 ? load(key) : load(key, there_of(dim, 0));
#pragma GCC unroll 4
  for (size_t row = 0; row < Rows; ++row) sums.of[row] = mul(load(queries + row * width), begun);
#pragma GCC unroll 8
  for (size_t j = 1; j < n; ++j) {
    const Lanes k = j + 1 < n ? load(key + 16 * j) : load(key + 16 * j, there_of(dim, 16 * j));
#pragma GCC unroll 4
    for (size_t row = 0; row < Rows; ++row)
      sums.of[row] = fma(load(queries + row * width + 16 * j), k, sums.of[row]);
  }
  return sums;
}

template <size_t Stage, size_t Rows>
PTUNE_PART Sums<Rows> both(const Sums<Rows>& a, const Sums<Rows>& b) {
  Sums<Rows> sums;
#pragma GCC unroll 4
  for (size_t row = 0; row < Rows; ++row) sums.of[row] = halves<Stage>(a.of[row], b.of[row]);
  return sums;
}

// Scores [Rows, kKeysOfABlock] of keys as they lie in the cache, 16 at a time. The last of `count` keys
// stands for those behind it: memory behind a slot is nobody's.
template <size_t Rows, size_t N, typename Number>
PTUNE_KERNEL void direct_scores(const float* queries, const Number* keys, size_t dim, size_t vectors,
                                size_t count, float* scores) {
  for (size_t first = 0; first < count; first += 16) {
    const size_t last = count - first - 1;
    const Number* from = keys + first * dim;
    Sums<Rows> fours[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; ++i) {
      const size_t k = 4 * i;
      const auto key = [&](size_t at) { return from + (at < last ? at : last) * dim; };
      const Number *one = key(k), *two = key(k + 1), *three = key(k + 2), *four = key(k + 3);
      const Sums<Rows> low = both<1>(by_lanes<Rows, N>(queries, one, dim, vectors),
                                     by_lanes<Rows, N>(queries, two, dim, vectors));
      const Sums<Rows> high = both<1>(by_lanes<Rows, N>(queries, three, dim, vectors),
                                      by_lanes<Rows, N>(queries, four, dim, vectors));
      fours[i] = both<2>(low, high);
    }
    const Sums<Rows> all = both<4>(both<3>(fours[0], fours[1]), both<3>(fours[2], fours[3]));
#pragma GCC unroll 4
    for (size_t row = 0; row < Rows; ++row)
      store(scores + row * kKeysOfABlock + first, in_order(all.of[row]));
  }
}

// Turns keys [count, dim] around: panels of 16 keys, in each [width, 16]; zeros where there is no key.
template <typename Number>
PTUNE_KERNEL void pack_keys(const Number* keys, size_t dim, size_t vectors, size_t count, float* panels) {
  for (size_t first = 0; first < count; first += 16)
    for (size_t j = 0; j < vectors; ++j) {
      Lanes rows[16];
#pragma GCC unroll 16
      for (size_t i = 0; i < 16; ++i)
        rows[i] =
            first + i < count ? load(keys + (first + i) * dim + 16 * j, there_of(dim, 16 * j)) : zeros();
      transpose(rows);
#pragma GCC unroll 16
      for (size_t i = 0; i < 16; ++i) store(panels + first * 16 * vectors + (16 * j + i) * 16, rows[i]);
    }
}

// The tree over lanes `Stride` apart, from `lane`, of 16 keys of a panel.
template <size_t Stride, size_t Rows, size_t N>
PTUNE_PART Sums<Rows> tree(const float* queries, const float* panel, size_t vectors, size_t lane) {
  if constexpr (Stride == 16) {
    const size_t n = N == 0 ? vectors : N, width = 16 * n;
    Sums<Rows> sums;
    const Lanes begun = load(panel + 16 * lane);
#pragma GCC unroll 4
    for (size_t row = 0; row < Rows; ++row) sums.of[row] = mul(each(queries[row * width + lane]), begun);
#pragma GCC unroll 8
    for (size_t j = 1; j < n; ++j) {
      const size_t d = 16 * j + lane;
      const Lanes k = load(panel + 16 * d);
#pragma GCC unroll 4
      for (size_t row = 0; row < Rows; ++row)
        sums.of[row] = fma(each(queries[row * width + d]), k, sums.of[row]);
    }
    return sums;
  } else {
    Sums<Rows> a = tree<2 * Stride, Rows, N>(queries, panel, vectors, lane);
    const Sums<Rows> b = tree<2 * Stride, Rows, N>(queries, panel, vectors, lane + Stride);
#pragma GCC unroll 4
    for (size_t row = 0; row < Rows; ++row) a.of[row] = add(a.of[row], b.of[row]);
    return a;
  }
}

// Scores [Rows, kKeysOfABlock] of keys in panels.
template <size_t Rows, size_t N>
PTUNE_KERNEL void packed_scores(const float* queries, const float* panel, size_t vectors, float* scores) {
  const Sums<Rows> all = tree<1, Rows, N>(queries, panel, vectors, 0);
#pragma GCC unroll 4
  for (size_t row = 0; row < Rows; ++row) store(scores + row * kKeysOfABlock, all.of[row]);
}

// Adds up weights [Rows, kKeysOfABlock] times values [count, stride], of Vectors * 16 numbers of each.
// tail: which numbers the last vector has.
template <size_t Rows, size_t Vectors, typename Number>
PTUNE_KERNEL void weigh(const float* weights, const Number* values, size_t stride, size_t count, Mask tail,
                        float* sums, size_t width) {
  Lanes sum[Rows][Vectors];
#pragma GCC unroll 6
  for (size_t row = 0; row < Rows; ++row)
#pragma GCC unroll 4
    for (size_t j = 0; j < Vectors; ++j) sum[row][j] = zeros();
  for (size_t k = 0; k < count; ++k) {
    Lanes v[Vectors];
#pragma GCC unroll 4
    for (size_t j = 0; j < Vectors; ++j)
      v[j] = j + 1 < Vectors ? load(values + k * stride + 16 * j) : load(values + k * stride + 16 * j, tail);
#pragma GCC unroll 6
    for (size_t row = 0; row < Rows; ++row) {
      const Lanes p = each(weights[row * kKeysOfABlock + k]);
#pragma GCC unroll 4
      for (size_t j = 0; j < Vectors; ++j) sum[row][j] = fma(p, v[j], sum[row][j]);
    }
  }
#pragma GCC unroll 6
  for (size_t row = 0; row < Rows; ++row)
#pragma GCC unroll 4
    for (size_t j = 0; j < Vectors; ++j) store(sums + row * width + 16 * j, sum[row][j]);
}

}  // namespace
}  // namespace ptune
