// The operators `ptune::Attention` and `ptune::Int8Attention` of onnxruntime: attention over a cache of keys
// and values that grows in place, for sequences of any lengths side by side.
//
//     y [..., heads dim], keys, values = Attention(lines [..., (heads + 2 kv_heads) dim], keys, values
//     [batch, kv_heads, positions, dim], seqlens_k, query_seqlens int32 [batch], pad_indices int64 [batch,
//     seq], unpad_indices int64 [cells], then of int8: key_scale, value_scale [kv_heads dim], then cos, sin
//     [cells, rotary / 2] or none, then sinks [heads] or none)
//
// Inputs are those of onnxruntime's GroupQueryAttention and of the gathers around it. A line is a flat
// token's queries, keys and values; `pad_indices` says where the tokens of a sequence lie. A cell that is no
// sequence's gets zeros, and a token that is there for the second time is left out. Attributes: heads,
// kv_heads, window (0: none), scale, softcap (0: none), rotary (0 or 1), sinks (0 or 1). A sink is a score of its
// head that has no value. Threads are onnxruntime's own.
#include "attention.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "operators.h"
#include "ort.h"
#include "product.h"

namespace ptune {
namespace {

// The new tokens of one sequence.
struct NewTokens {
  size_t slot;
  size_t first;  // place of the first among all new tokens
  size_t count;
  size_t position;  // of the first
  const int64_t* cells;
};

// Queries of one key head and sequence that are computed together, and the blocks of keys that they meet.
struct Tile {
  const NewTokens* tokens;
  size_t head, from, count;  // tokens [from, from + count) of it
  size_t begin, end;         // blocks
  size_t partial;            // place of its first partial
};

template <typename Number>
struct Inputs {
  const float *lines, *cos, *sin, *key_scale, *value_scale;
  Number *keys, *values;
  size_t positions;  // of a slot
  size_t cells;
  std::vector<float> sinks;  // of each key head, as partials of its queries; or none
  float* y;
};

template <typename Number>
class Attention {
 public:
  explicit Attention(const OrtKernelInfo* info)
      : kernel_(best()) {
    layer_.heads = number(info, "heads");
    layer_.keys = number(info, "kv_heads");
    layer_.window = number(info, "window");
    rotary_ = number(info, "rotary") != 0;
    sinks_ = number(info, "sinks") != 0;
    check(api->KernelInfoGetAttribute_float(info, "scale", &layer_.scale));
    check(api->KernelInfoGetAttribute_float(info, "softcap", &layer_.softcap));
    if (layer_.keys == 0 || layer_.heads % layer_.keys != 0) refuse("heads that do not share keys evenly");
  }

  void compute(OrtKernelContext* context) const {
    AttentionLayer layer = layer_;
    const Inputs<Number> in = inputs(context, layer);
    const std::vector<NewTokens> sequences = new_tokens(context, in);
    size_t tokens = 0;
    for (const NewTokens& one : sequences) tokens += one.count;
    if (tokens < in.cells) std::memset(in.y, 0, in.cells * layer.heads * layer.dim * sizeof(float));
    if (tokens == 0) return;
    std::vector<Tile> tiles = all_tiles(layer, sequences);
    const bool split = tiles.size() < kFewTiles && divide(tiles);
    const size_t of_queries = tokens * layer.heads * layer.width();
    const size_t of_partial = numbers_of_partial(layer, layer.group());
    const size_t partials = split ? tiles.size() * of_partial : 0;
    float* queries = reinterpret_cast<float*>(scratch((of_queries + partials) * sizeof(float)));
    float* found = queries + of_queries;
    in_pieces(context, tokens, 1, kNumbersOfAPiece / layer.numbers(), [&](size_t from, size_t to) {
      for (const NewTokens& one : sequences)
        for (size_t at = std::max(from, one.first); at < std::min(to, one.first + one.count); ++at)
          prepare(layer, in, one, at - one.first, tokens, queries);
    });
    size_t blocks = 0;
    for (const Tile& tile : tiles) blocks += (tile.end - tile.begin) * tile.count;
    const size_t least = kBlocksOfAPiece * tiles.size() / std::max<size_t>(blocks * layer.group(), 1);
    in_pieces(context, tiles.size(), 1, least, [&](size_t from, size_t to) {
      for (size_t at = from; at < to; ++at)
        attend(layer, in, tiles[at], tokens, queries, split ? found + at * of_partial : nullptr);
    });
    if (split) join(layer, in, tiles, found);
  }

 private:
  static constexpr size_t kNumbersOfAPiece = 1 << 14, kBlocksOfAPiece = 6;
  static constexpr size_t kRowsTogether = 96, kFewTiles = 24;
  static constexpr int kOfPieces = 1;
  static constexpr size_t kMostInputs = 12;

  static const AttentionKernel<Number>& best() {  // the one beside `best_kernel`
#if defined(__x86_64__)
    if (best_kernel().with == Instructions::kAvx512) return avx512_attention<Number>();
    if (best_kernel().with != Instructions::kPlain) return avx2_attention<Number>();
#endif
    return plain_attention<Number>();
  }

  Inputs<Number> inputs(OrtKernelContext* context, AttentionLayer& layer) const {
    size_t count = 0;
    check(api->KernelContext_GetInputCount(context, &count));
    const OrtValue* given[kMostInputs] = {};
    for (size_t at = 0; at < std::min(count, kMostInputs); ++at)
      check(api->KernelContext_GetInput(context, at, &given[at]));
    const std::vector<int64_t> cache = shape_of(given[1]), lines = shape_of(given[0]);
    if (cache.size() != 4 || cache != shape_of(given[2]) || static_cast<size_t>(cache[1]) != layer.keys)
      refuse("keys and values of another shape");
    layer.dim = static_cast<size_t>(cache[3]);
    if (layer.dim == 0 || layer.dim > kMostNumbers) refuse("heads of another width");
    if (lines.empty() || static_cast<size_t>(lines.back()) != layer.numbers())
      refuse("lines of another width");
    Inputs<Number> in{};
    in.cells = 1;
    for (size_t at = 0; at + 1 < lines.size(); ++at) in.cells *= static_cast<size_t>(lines[at]);
    in.positions = static_cast<size_t>(cache[2]);
    in.lines = data_of<float>(given[0]);
    size_t next = 7;
    if (sizeof(Number) == 1) {
      in.key_scale = of_all(given[next++], layer.keys * layer.dim);
      in.value_scale = of_all(given[next++], layer.keys * layer.dim);
    }
    if (rotary_) {
      layer.rotary = 2 * static_cast<size_t>(shape_of(given[next]).back());
      if (layer.rotary > layer.dim) refuse("angles of another width");
      in.cos = of_all(given[next++], in.cells * layer.rotary / 2);
      in.sin = of_all(given[next++], in.cells * layer.rotary / 2);
    }
    if (sinks_) in.sinks = partials_of(of_all(given[next], layer.heads), layer);
    std::vector<int64_t> y = lines;
    y.back() = static_cast<int64_t>(layer.heads * layer.dim);
    OrtValue* output = nullptr;
    check(api->KernelContext_GetOutput(context, 0, y.data(), y.size(), &output));
    in.y = const_cast<float*>(data_of<float>(output));
    in.keys = grown(context, 1, given[1], cache);
    in.values = grown(context, 2, given[2], cache);
    return in;
  }

  // Scores [heads] as what was added up: nothing, with a total of one.
  static std::vector<float> partials_of(const float* scores, const AttentionLayer& layer) {
    const size_t group = layer.group(), size = numbers_of_partial(layer, group);
    std::vector<float> found(layer.keys * size);
    for (size_t head = 0; head < layer.keys; ++head) {
      const Partial partial = partial_at(layer, group, found.data() + head * size);
      std::copy_n(scores + head * group, group, partial.largest);
      std::fill_n(partial.total, group, 1.0f);
    }
    return found;
  }

  // The numbers of an input of at least so many.
  static const float* of_all(const OrtValue* value, size_t least) {
    if (value == nullptr) refuse("an input is missing");
    const std::vector<int64_t> shape = shape_of(value);
    if (Constant{nullptr, shape}.count() < least) refuse("scales or angles are missing");
    return data_of<float>(value);
  }

  // The cache after this step: the same memory, or else a copy.
  static Number* grown(OrtKernelContext* context, size_t at, const OrtValue* past,
                       const std::vector<int64_t>& shape) {
    OrtValue* output = nullptr;
    check(api->KernelContext_GetOutput(context, at, shape.data(), shape.size(), &output));
    Number* present = const_cast<Number*>(data_of<Number>(output));
    const Number* before = data_of<Number>(past);
    if (present != before) std::memcpy(present, before, Constant{nullptr, shape}.count() * sizeof(Number));
    return present;
  }

  // Sequences that have new tokens.
  static std::vector<NewTokens> new_tokens(OrtKernelContext* context, const Inputs<Number>& in) {
    const OrtValue* given[4];
    for (size_t at = 0; at < 4; ++at) check(api->KernelContext_GetInput(context, at + 3, &given[at]));
    const std::vector<int64_t> pad = shape_of(given[2]);
    if (pad.size() != 2 || shape_of(given[0]) != std::vector<int64_t>{pad[0]} ||
        shape_of(given[1]) != shape_of(given[0]) ||
        shape_of(given[3]) != std::vector<int64_t>{static_cast<int64_t>(in.cells)})
      refuse("sequences of another number");
    const int32_t *last = data_of<int32_t>(given[0]), *counts = data_of<int32_t>(given[1]);
    const int64_t *cells = data_of<int64_t>(given[2]), *places = data_of<int64_t>(given[3]);
    std::vector<NewTokens> found;
    size_t first = 0;
    for (int64_t slot = 0; slot < pad[0]; ++slot) {
      const int64_t queries = counts[slot], position = last[slot] + 1 - queries, begin = slot * pad[1];
      if (queries <= 0) continue;
      if (queries > pad[1] || position < 0 || static_cast<size_t>(last[slot]) >= in.positions)
        refuse("a sequence is longer than its slot");
      int64_t count = 0;
      for (; count < queries; ++count) {
        const int64_t cell = cells[begin + count];
        if (cell < 0 || static_cast<size_t>(cell) >= in.cells) refuse("a token is nowhere");
        if (places[cell] != begin + count) break;
      }
      if (count > 0)
        found.push_back({static_cast<size_t>(slot), first, static_cast<size_t>(count),
                         static_cast<size_t>(position), cells + begin});
      first += static_cast<size_t>(count);
    }
    return found;
  }

  static std::vector<Tile> all_tiles(const AttentionLayer& layer, const std::vector<NewTokens>& sequences) {
    const size_t most = std::max<size_t>(kRowsTogether / layer.group(), 1);
    std::vector<Tile> tiles;
    for (const NewTokens& one : sequences)
      for (size_t head = 0; head < layer.keys; ++head)
        for (size_t from = 0; from < one.count; from += most) {
          const size_t count = std::min(most, one.count - from);
          const size_t first = layer.first_of(one.position + from) / kKeysOfABlock;
          tiles.push_back(
              {&one, head, from, count, first, (one.position + from + count - 1) / kKeysOfABlock + 1, 0});
        }
    return tiles;
  }

  // Makes a tile for each block of keys, where a tile has one token; false, and nothing is changed, where
  // there are others.
  static bool divide(std::vector<Tile>& tiles) {
    std::vector<Tile> divided;
    for (const Tile& tile : tiles) {
      if (tile.count > 1) return false;
      for (size_t block = tile.begin; block < tile.end; ++block) {
        divided.push_back(tile);
        divided.back().begin = block, divided.back().end = block + 1;
      }
    }
    tiles.swap(divided);
    return true;
  }

  HeadOfCache<Number> head_of(const AttentionLayer& layer, const Inputs<Number>& in, size_t slot,
                              size_t head) const {
    const size_t at = (slot * layer.keys + head) * in.positions * layer.dim;
    return {in.keys + at, in.values + at, scale_of(layer, in.key_scale, head),
            scale_of(layer, in.value_scale, head)};
  }

  static const float* scale_of(const AttentionLayer& layer, const float* scales, size_t head) {
    return scales == nullptr ? nullptr : scales + head * layer.dim;
  }

  // Queries lie by key head, then by token, then by the heads that share the key.
  static float* queries_at(const AttentionLayer& layer, float* queries, size_t head, size_t token,
                           size_t tokens) {
    return queries + (head * tokens + token) * layer.group() * layer.width();
  }

  void prepare(const AttentionLayer& layer, const Inputs<Number>& in, const NewTokens& one, size_t token,
               size_t tokens, float* queries) const {
    const size_t cell = static_cast<size_t>(one.cells[token]), half = layer.rotary / 2;
    const float* x = in.lines + cell * layer.numbers();
    const float* cos = rotary_ ? in.cos + cell * half : nullptr;
    const float* sin = rotary_ ? in.sin + cell * half : nullptr;
    const float* key = x + layer.heads * layer.dim;
    const float* value = key + layer.keys * layer.dim;
    for (size_t head = 0; head < layer.keys; ++head) {
      const HeadOfCache<Number> cache = head_of(layer, in, one.slot, head);
      float* to = queries_at(layer, queries, head, one.first + token, tokens);
      for (size_t at = 0; at < layer.group(); ++at)
        kernel_.query(layer, x + (head * layer.group() + at) * layer.dim, cos, sin, cache.key_scale,
                      to + at * layer.width());
      const size_t place = (one.position + token) * layer.dim;
      kernel_.store(layer, key + head * layer.dim, cos, sin, cache.key_scale, cache.keys + place);
      kernel_.store(layer, value + head * layer.dim, nullptr, nullptr, cache.value_scale,
                    cache.values + place);
    }
  }

  // found: where a partial is left; null where the tile is finished.
  void attend(const AttentionLayer& layer, const Inputs<Number>& in, const Tile& tile, size_t tokens,
              float* queries, float* found) const {
    const NewTokens& one = *tile.tokens;
    const size_t rows = tile.count * layer.group(), of_room = room_of_attention(layer);
    float* room = reinterpret_cast<float*>(
        scratch<kOfPieces>((of_room + numbers_of_partial(layer, rows)) * sizeof(float)));
    const Partial partial = partial_at(layer, rows, found == nullptr ? room + of_room : found);
    const QueryRows of_tile{queries_at(layer, queries, tile.head, one.first + tile.from, tokens), rows,
                            one.position + tile.from};
    kernel_.attend(layer, of_tile, head_of(layer, in, one.slot, tile.head), tile.begin, tile.end, partial,
                   room);
    if (found == nullptr) finish(layer, in, tile, partial);
  }

  void join(const AttentionLayer& layer, const Inputs<Number>& in, const std::vector<Tile>& tiles,
            float* found) const {
    const size_t rows = layer.group(), size = numbers_of_partial(layer, rows);
    for (size_t at = 0; at < tiles.size();) {
      const Partial first = partial_at(layer, rows, found + at * size);
      const Tile& tile = tiles[at];
      for (++at; at < tiles.size() && tiles[at].tokens == tile.tokens && tiles[at].head == tile.head; ++at)
        kernel_.merge(layer, rows, partial_at(layer, rows, found + at * size), first);
      finish(layer, in, tile, first);
    }
  }

  void finish(const AttentionLayer& layer, const Inputs<Number>& in, const Tile& tile,
              const Partial& found) const {
    const size_t group = layer.group();
    for (size_t token = 0; token < tile.count; ++token) {
      const size_t cell = static_cast<size_t>(tile.tokens->cells[tile.from + token]);
      const Partial of_token = from_row(layer, found, token * group);
      if (sinks_) kernel_.merge(layer, group, sinks_of(layer, in, tile.head), of_token);
      kernel_.finish(layer, group, of_token, scale_of(layer, in.value_scale, tile.head),
                     in.y + (cell * layer.heads + tile.head * group) * layer.dim);
    }
  }

  static Partial sinks_of(const AttentionLayer& layer, const Inputs<Number>& in, size_t head) {
    const size_t group = layer.group();
    float* of_all = const_cast<float*>(in.sinks.data());  // nothing is written to what is merged
    return partial_at(layer, group, of_all + head * numbers_of_partial(layer, group));
  }

  const AttentionKernel<Number>& kernel_;
  AttentionLayer layer_;
  bool rotary_ = false, sinks_ = false;
};

template <typename Number>
OrtCustomOp attention_of(const char* (*name)(const OrtCustomOp*)) {
  OrtCustomOp op = operator_of_processor();
  op.GetName = name;
  constexpr auto cache =
      sizeof(Number) == 1 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return sizeof(Number) == 1 ? 12 : 10; };
  op.GetInputType = [](const OrtCustomOp*, size_t at) {
    if (at == 1 || at == 2) return cache;
    if (at == 3 || at == 4) return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    return at == 5 || at == 6 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t at) {
    return at < (sizeof(Number) == 1 ? 9 : 7) ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
  };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 3; };
  op.GetOutputType = [](const OrtCustomOp*, size_t at) {
    return at > 0 ? cache : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  computed_by<Attention<Number>>(op);
  return op;
}

}  // namespace

OrtCustomOp attention() {
  return attention_of<float>([](const OrtCustomOp*) { return "Attention"; });
}

OrtCustomOp int8_attention() {
  return attention_of<int8_t>([](const OrtCustomOp*) { return "Int8Attention"; });
}

}  // namespace ptune
