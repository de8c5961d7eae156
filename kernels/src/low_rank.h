// Low-rank updates of rows: y += ((x A) * mask + ones) B, each row with the factors of its own adapter.
//
// Floats are added up in an order that depends on neither rank nor company, so a row's bits are the same
// alone, beside any others, and where its factors are padded with zeros:
//
//     s[k % 4] = fma(x[k], A[k, r], s[k % 4])                        in the order of k
//     low[r] = ((s[0] + s[1]) + (s[2] + s[3])) * mask[r] + ones[r]
//     u = fma(low[r], B[r, j], u)                                    in the order of r
//     y[j] = y[j] + u
#pragma once

#include <cstddef>
#include <cstdint>

namespace ptune {

constexpr size_t kRowsOfFactors = 4;  // that meet a factor together, which is read once for them
constexpr size_t kPanelOfB = 64;      // columns

// One adapter's factors of one layer, both in float32 or both in half precision: A [in, rank] and
// B [rank, out], the latter in panels of its columns, [rank, kPanelOfB] each; the last one may be narrower.
struct Factors {
  const void *a, *b;
  size_t in, rank, out;
  bool halves;
};

// Rows that share factors.
struct Sharing {
  size_t count;  // 1 to kRowsOfFactors
  const float* x[kRowsOfFactors];
  const float* mask[kRowsOfFactors];
  const float* ones[kRowsOfFactors];  // or null
  float* low[kRowsOfFactors];  // [rank]
  float* y[kRowsOfFactors];
};

struct LowRankKernel {
  void (*down)(const Factors&, const Sharing&);  // writes low
  void (*up)(const Factors&, const Sharing&, size_t from, size_t to);  // adds to columns [from, to) of y
};

extern const LowRankKernel kPlainLowRank, kAvx2LowRank, kAvx512LowRank;

}  // namespace ptune
