// Blocks with AVX-VNNI, which multiplies four bytes at once; they are rounded as with AVX2.
#if defined(__x86_64__)

#include "avx_vnni.h"
#include "blocks.h"

#define PTUNE_KERNEL PTUNE_AVX_VNNI
#define PTUNE_PART PTUNE_AVX_VNNI_INLINE

namespace ptune {
namespace {

struct Pair {  // of inputs of a sum: its first four, its others
  __m256i first, other;
};

template <bool>
PTUNE_PART void two_fours(const Pair& w, const int8_t* q, __m256i& first, __m256i& other) {
  first = plus_four_products(_mm256_setzero_si256(), w.first, four_in_each(q));
  other = plus_four_products(_mm256_setzero_si256(), w.other, four_in_each(q + 8));
}

template <bool>
PTUNE_PART __m256i four_products(const Pair& w, const int8_t* q) {
  const __m256i first = plus_four_products(_mm256_setzero_si256(), w.first, four_in_each(q));
  return plus_four_products(first, w.other, four_in_each(q + 8));
}

void round_rows(const BlockWeights& w, const float* x, const BlockRows& rows, size_t from, size_t to) {
  kAvx2Blocks.round(w, x, rows, from, to);
}

}  // namespace
}  // namespace ptune

// How bytes are multiplied comes first.
#include "block_ymm.h"

namespace ptune {

const BlockKernel kAvxVnniBlocks{"avx_vnni", has_avx_vnni, round_rows, product};

}  // namespace ptune

#endif
