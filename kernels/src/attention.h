// Attention over a cache of keys and values, in float32 or int8.
//
// A query sees the keys of its sequence from the first (or the first of its window) to its own. The
// arithmetic is fixed by positions alone, so that a query has the same bits in any batch, chunk, tile and
// thread:
//
//     score = sum over 16 lanes of (sum over j of q[16 j + lane] k[16 j + lane])    the lanes' tree: 8, 4, 2,
//     1 apart of each block of 128 keys, counted from position 0:
//         m = the largest score,  p = exp(score - m),  l = sum of p,  a = sum over its keys in order of p v
//     blocks in order:  M' = max(M, m),  L' = L exp(M - M') + l exp(m - M'),  A' likewise;  at the end A / L
//
// Keys that a query does not see count as p = 0, which changes no bit of finite sums. Every product is added
// by one fused step.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ptune {

constexpr size_t kKeysOfABlock = 128;
constexpr size_t kMostNumbers = 256;  // of a head
constexpr size_t kRowsOfATile = 12;   // queries whose scores lie in a core's nearest memory together

struct AttentionLayer {
  size_t heads = 0, keys = 0;  // heads of queries, and of keys
  size_t dim = 0;
  size_t rotary = 0;  // of a head's numbers, how many are turned
  size_t window = 0;  // positions that a query sees, with its own; 0: all
  float scale = 0, softcap = 0;

  size_t group() const { return heads / keys; }                // query heads for each key head
  size_t width() const { return (dim + 15) / 16 * 16; }        // of a query in memory, behind it zeros
  size_t numbers() const { return (heads + 2 * keys) * dim; }  // of a token's line
  size_t first_of(size_t at) const { return window == 0 || at < window ? 0 : at + 1 - window; }
};

// A head's keys and values in one slot [positions, dim]. Number: float or int8_t.
template <typename Number>
struct HeadOfCache {
  Number *keys, *values;
  const float *key_scale = nullptr, *value_scale = nullptr;  // [dim] of int8
};

// Queries [count, width] of neighbouring tokens, each token's `group` heads together.
struct QueryRows {
  const float* rows;
  size_t count;
  size_t position;  // of the first token
};

// What was added up for `count` queries: sums [count, width], the largest scores, the totals of p.
struct Partial {
  float *sums, *largest, *total;
};

inline size_t numbers_of_partial(const AttentionLayer& layer, size_t rows) {
  return rows * (layer.width() + 2);
}

inline Partial partial_at(const AttentionLayer& layer, size_t rows, float* room) {
  return {room, room + rows * layer.width(), room + rows * (layer.width() + 1)};
}

inline Partial from_row(const AttentionLayer& layer, const Partial& of, size_t row) {
  return {of.sums + row * layer.width(), of.largest + row, of.total + row};
}

template <typename Number>
struct AttentionKernel {
  // Turns a token's head by its angles and writes it, times `scale`, as a query [width].
  void (*query)(const AttentionLayer&, const float* x, const float* cos, const float* sin,
                const float* key_scale, float* to);
  // Turns a head (cos null: does not) and writes it to the cache [dim], rounded where it is int8.
  void (*store)(const AttentionLayer&, const float* x, const float* cos, const float* sin, const float* scale,
                Number* to);
  // Adds blocks [from, to) of keys to `found`, of a sequence whose last new token is at `last`.
  void (*attend)(const AttentionLayer&, const QueryRows&, const HeadOfCache<Number>&, size_t from, size_t to,
                 const Partial& found, float* room);
  // Adds one partial to another.
  void (*merge)(const AttentionLayer&, size_t rows, const Partial& more, const Partial& found);
  // Divides by totals and writes `rows` heads [rows, dim].
  void (*finish)(const AttentionLayer&, size_t rows, const Partial& found, const float* value_scale,
                 float* to);
};

size_t room_of_attention(const AttentionLayer& layer);  // numbers that `attend` needs

template <typename Number>
const AttentionKernel<Number>& plain_attention();
template <typename Number>
const AttentionKernel<Number>& avx2_attention();
template <typename Number>
const AttentionKernel<Number>& avx512_attention();

}  // namespace ptune
