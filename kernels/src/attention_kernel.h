// Attention's arithmetic (attention.h), for any sort of lanes. PTUNE_KERNEL: what a function needs of the
// processor; PTUNE_PART: the same of one that becomes part of its caller.
#pragma once

#include <cfloat>
#include <cstring>

#include "attention.h"
#include "attention_numbers.h"

namespace ptune {
namespace {

constexpr size_t kRowsToPack = 8;  // queries from which on keys are turned around before they are multiplied

// Turns numbers d.. of the first half of a head's `rotary` ones with those of the second; returns either
// half.
PTUNE_PART Lanes turned(const AttentionLayer& layer, const float* x, const float* cos, const float* sin,
                        size_t d, bool second, Mask there) {
  const size_t half = layer.rotary / 2;
  const Lanes c = load(cos + d, there), s = load(sin + d, there);
  const Lanes low = load(x + d, there), high = load(x + half + d, there);
  return second ? fma(high, c, mul(low, s)) : sub(mul(low, c), mul(high, s));
}

// A head after its turn, at `to` [dim].
PTUNE_KERNEL void turn(const AttentionLayer& layer, const float* x, const float* cos, const float* sin,
                       float* to) {
  const size_t half = cos == nullptr ? 0 : layer.rotary / 2;
  for (size_t d = 0; d < half; d += 16) {
    const Mask there = first_lanes(half - d);
    store(to + d, turned(layer, x, cos, sin, d, false, there), there);
    store(to + half + d, turned(layer, x, cos, sin, d, true, there), there);
  }
  for (size_t d = 2 * half; d < layer.dim; d += 16) {
    const Mask there = first_lanes(layer.dim - d);
    store(to + d, load(x + d, there), there);
  }
}

PTUNE_KERNEL void make_query(const AttentionLayer& layer, const float* x, const float* cos, const float* sin,
                             const float* key_scale, float* to) {
  turn(layer, x, cos, sin, to);
  for (size_t d = 0; d < layer.width(); d += 16) {
    const Mask there = first_lanes(d < layer.dim ? layer.dim - d : 0);
    Lanes q = mul(load(to + d, there), each(layer.scale));
    if (key_scale != nullptr) q = mul(q, load(key_scale + d, there));
    store(to + d, keep(there, q, zeros()));
  }
}

PTUNE_KERNEL void store_head(const AttentionLayer& layer, const float* x, const float* cos, const float* sin,
                             const float*, float* to) {
  turn(layer, x, cos, sin, to);
}

PTUNE_KERNEL void store_head(const AttentionLayer& layer, const float* x, const float* cos, const float* sin,
                             const float* scale, int8_t* to) {
  float whole[kMostNumbers];
  turn(layer, x, cos, sin, whole);
  for (size_t d = 0; d < layer.dim; d += 16) {
    const Mask there = first_lanes(layer.dim - d);
    store(to + d, divide(load(whole + d, there), load(scale + d, there)), there);
  }
}

// The keys of a block that a query sees: [from, to), counted from the block's first.
struct Seen {
  size_t from, to;
};

inline Seen seen_by(const AttentionLayer& layer, size_t position, size_t begin) {
  const size_t first = layer.first_of(position), end = position + 1;
  const size_t from = first > begin ? first - begin : 0, to = end > begin ? end - begin : 0;
  return {from < kKeysOfABlock ? from : kKeysOfABlock, to < kKeysOfABlock ? to : kKeysOfABlock};
}

// Makes p of a row's scores, in place, over its block's first `count` keys; zeros for those that are not
// seen.
PTUNE_KERNEL void weights_of(const AttentionLayer& layer, float* scores, size_t count, Seen seen,
                             float* largest, float* total) {
  const size_t from = seen.from < seen.to ? seen.from : count, to = seen.to;
  Lanes most = each(-FLT_MAX), sum = zeros();
  for (size_t k = 0; k < count; k += 16) {
    const Mask there = between(from, to, k);
    Lanes score = load(scores + k);
    if (layer.softcap > 0) {
      score = mul(tanh_of(divide(score, each(layer.softcap))), each(layer.softcap));
      store(scores + k, score);
    }
    most = larger(keep(there, score, each(-FLT_MAX)), most);
  }
  *largest = largest_of(most);
  for (size_t k = 0; k < count; k += 16) {
    const Mask there = between(from, to, k);
    const Lanes p = keep(there, exp_of(sub(load(scores + k), each(*largest))), zeros());
    sum = add(sum, p);
    store(scores + k, p);
  }
  *total = total_of(sum);
}

// How much of a sum counts beside a larger score.
PTUNE_KERNEL float share_of(float largest, float of_all) {
  float share[16];
  store(share, exp_of(each(largest - of_all)));
  return share[0];
}

PTUNE_KERNEL void merge(const AttentionLayer& layer, size_t rows, const Partial& more, const Partial& found) {
  for (size_t row = 0; row < rows; ++row) {
    const float old = found.largest[row], other = more.largest[row], largest = old > other ? old : other;
    const float kept = share_of(old, largest), added = share_of(other, largest);
    for (size_t d = 0; d < layer.width(); d += 16) {
      float* sums = found.sums + row * layer.width() + d;
      store(sums, fma(load(more.sums + row * layer.width() + d), each(added), mul(load(sums), each(kept))));
    }
    found.total[row] = __builtin_fmaf(more.total[row], added, found.total[row] * kept);
    found.largest[row] = largest;
  }
}

PTUNE_KERNEL void finish(const AttentionLayer& layer, size_t rows, const Partial& found,
                         const float* value_scale, float* to) {
  for (size_t row = 0; row < rows; ++row) {
    const Lanes share = each(1 / found.total[row]);
    for (size_t d = 0; d < layer.dim; d += 16) {
      const Mask there = first_lanes(layer.dim - d);
      Lanes y = mul(load(found.sums + row * layer.width() + d), share);
      if (value_scale != nullptr) y = mul(y, load(value_scale + d, there));
      store(to + row * layer.dim + d, y, there);
    }
  }
}

}  // namespace
}  // namespace ptune
