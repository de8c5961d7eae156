// Attention over blocks of keys: how queries are divided among the products of attention_products.h.
#pragma once

#include <algorithm>

#include "attention_kernel.h"
#include "attention_products.h"

namespace ptune {
namespace {

template <size_t Rows, typename Number>
PTUNE_KERNEL void direct(const float* queries, const Number* keys, const AttentionLayer& layer, size_t count,
                         float* scores) {
  const size_t vectors = layer.width() / 16;
  if (vectors == 4) return direct_scores<Rows, 4>(queries, keys, layer.dim, vectors, count, scores);
  if (vectors == 8) return direct_scores<Rows, 8>(queries, keys, layer.dim, vectors, count, scores);
  direct_scores<Rows, 0>(queries, keys, layer.dim, vectors, count, scores);
}

template <typename Number>
PTUNE_KERNEL void score_directly(const AttentionLayer& layer, const float* queries, size_t rows,
                                 const Number* keys, size_t count, float* scores) {
  while (rows > 0) {
    const size_t some = rows < 3 ? rows : rows == 4 ? 2 : 3;
    if (some == 1) direct<1>(queries, keys, layer, count, scores);
    if (some == 2) direct<2>(queries, keys, layer, count, scores);
    if (some == 3) direct<3>(queries, keys, layer, count, scores);
    queries += some * layer.width(), scores += some * kKeysOfABlock, rows -= some;
  }
}

template <size_t Rows>
PTUNE_KERNEL void packed(const float* queries, const float* panel, size_t vectors, float* scores) {
  if (vectors == 4) return packed_scores<Rows, 4>(queries, panel, vectors, scores);
  if (vectors == 8) return packed_scores<Rows, 8>(queries, panel, vectors, scores);
  packed_scores<Rows, 0>(queries, panel, vectors, scores);
}

PTUNE_KERNEL void score_packed(const AttentionLayer& layer, const float* queries, size_t rows,
                               const float* panels, size_t count, float* scores) {
  const size_t width = layer.width(), vectors = width / 16;
  for (size_t k = 0; k < count; k += 16) {
    size_t row = 0;
    for (; row + kRowsOfTree <= rows; row += kRowsOfTree)
      packed<kRowsOfTree>(queries + row * width, panels + k * width, vectors,
                          scores + row * kKeysOfABlock + k);
    for (; row < rows; ++row)
      packed<1>(queries + row * width, panels + k * width, vectors, scores + row * kKeysOfABlock + k);
  }
}

template <size_t Rows, typename Number>
PTUNE_KERNEL void weigh_rows(const float* weights, const Number* values, size_t stride, size_t dim,
                             size_t count, float* sums, size_t width) {
  constexpr size_t kMost = vectors_of_sums(Rows), kTogether = 16 * kMost;
  for (size_t d = 0; d < dim; d += kTogether) {
    const size_t left = dim - d < kTogether ? dim - d : kTogether, vectors = (left + 15) / 16;
    const Mask tail = first_lanes(left - 16 * (vectors - 1));
    const auto some = vectors == 4   ? weigh<Rows, kMost, Number>
                      : vectors == 3 ? weigh<Rows, std::min<size_t>(kMost, 3), Number>
                      : vectors == 2 ? weigh<Rows, std::min<size_t>(kMost, 2), Number>
                                     : weigh<Rows, 1, Number>;
    some(weights, values + d, stride, count, tail, sums + d, width);
  }
}

template <typename Number>
PTUNE_KERNEL void weigh_all(const float* weights, size_t rows, const Number* values, size_t stride,
                            size_t dim, size_t count, float* sums, size_t width) {
  while (rows > 0) {
    const size_t some = rows >= 6 ? 6 : rows >= 3 ? 3 : rows;
    if (some == 6) weigh_rows<6>(weights, values, stride, dim, count, sums, width);
    if (some == 3) weigh_rows<3>(weights, values, stride, dim, count, sums, width);
    if (some == 2) weigh_rows<2>(weights, values, stride, dim, count, sums, width);
    if (some == 1) weigh_rows<1>(weights, values, stride, dim, count, sums, width);
    weights += some * kKeysOfABlock, sums += some * width, rows -= some;
  }
}

// Parts of the memory that one call of `attend` works in.
struct Room {
  float *panels, *values, *scores, *partial;
};

inline Room room_at(const AttentionLayer& layer, float* at) {
  const size_t of_block = kKeysOfABlock * layer.width();
  return {at, at + of_block, at + 2 * of_block, at + 2 * of_block + kRowsOfATile * kKeysOfABlock};
}

PTUNE_KERNEL void values_as_floats(const AttentionLayer& layer, const int8_t* values, size_t count,
                                   float* to) {
  for (size_t k = 0; k < count; ++k)
    for (size_t d = 0; d < layer.dim; d += 16)
      store(to + k * layer.width() + d, load(values + k * layer.dim + d, there_of(layer.dim, d)));
}

PTUNE_KERNEL void values_as_floats(const AttentionLayer&, const float*, size_t, float*) {}

// A block's keys and values as a tile of queries reads them.
template <typename Number>
struct Block {
  const Number *keys, *values;
  size_t begin;
  bool packed;
};

// Adds a block's keys [0, count) to `found` for a tile of queries, the first of the rows that are row-th of
// all.
template <typename Number>
PTUNE_KERNEL void attend_tile(const AttentionLayer& layer, const QueryRows& queries, size_t row, size_t rows,
                              size_t count, const Block<Number>& block, const Room& room,
                              const Partial& found) {
  const size_t width = layer.width();
  const float* of_tile = queries.rows + row * width;
  if (block.packed)
    score_packed(layer, of_tile, rows, room.panels, count, room.scores);
  else
    score_directly(layer, of_tile, rows, block.keys, count, room.scores);
  const Partial partial = partial_at(layer, kRowsOfATile, room.partial);
  for (size_t i = 0; i < rows; ++i) {
    const Seen seen = seen_by(layer, queries.position + (row + i) / layer.group(), block.begin);
    weights_of(layer, room.scores + i * kKeysOfABlock, count, seen, partial.largest + i, partial.total + i);
  }
  if (block.packed && sizeof(Number) == 1)
    weigh_all(room.scores, rows, static_cast<const float*>(room.values), width, layer.dim, count,
              partial.sums, width);
  else
    weigh_all(room.scores, rows, block.values, layer.dim, layer.dim, count, partial.sums, width);
  merge(layer, rows, partial, from_row(layer, found, row));
}

PTUNE_KERNEL void empty(const AttentionLayer& layer, size_t rows, const Partial& found) {
  for (size_t row = 0; row < rows; ++row) found.largest[row] = -FLT_MAX, found.total[row] = 0;
  std::memset(found.sums, 0, rows * layer.width() * sizeof(float));
}

template <typename Number>
PTUNE_KERNEL void attend(const AttentionLayer& layer, const QueryRows& queries,
                         const HeadOfCache<Number>& head, size_t from, size_t to, const Partial& found,
                         float* at) {
  const Room room = room_at(layer, at);
  const size_t last = queries.position + (queries.count - 1) / layer.group();
  empty(layer, queries.count, found);
  for (size_t number = from; number < to; ++number) {
    const size_t begin = number * kKeysOfABlock;
    const Seen all{0, seen_by(layer, last, begin).to};
    if (all.to == 0 || layer.first_of(queries.position) >= begin + kKeysOfABlock) continue;
    const Block<Number> block{head.keys + begin * layer.dim, head.values + begin * layer.dim, begin,
                              queries.count >= kRowsToPack};
    if (block.packed) {
      pack_keys(block.keys, layer.dim, layer.width() / 16, all.to, room.panels);
      values_as_floats(layer, block.values, all.to, room.values);
    }
    for (size_t row = 0; row < queries.count; row += kRowsOfATile) {
      const size_t rows = queries.count - row < kRowsOfATile ? queries.count - row : kRowsOfATile;
      const size_t first = queries.position + row / layer.group();
      const size_t end = queries.position + (row + rows - 1) / layer.group();
      const size_t count = seen_by(layer, end, begin).to;
      if (count > 0 && layer.first_of(first) < begin + kKeysOfABlock)
        attend_tile(layer, queries, row, rows, count, block, room, found);
    }
  }
}

template <typename Number>
constexpr AttentionKernel<Number> kKernel{make_query, store_head, attend<Number>, merge, finish};

}  // namespace
}  // namespace ptune
