// AMX: one instruction multiplies 16 rows of 64 bytes with a tile of weights, 64 inputs of 16 columns.
//
// Rows lie in blocks of eight, since a row is two rows of bytes: [depth / 64][rows of the block][high,
// low][64 bytes]. One or two rows leave tiles almost empty and are as fast as memory without them: they are
// computed as on processors without AMX.
#if defined(__x86_64__)

#include "avx512.h"
#include "tiles.h"

#ifdef PTUNE_EMULATED_TILES
#define PTUNE_AMX PTUNE_AVX512
#else
#define PTUNE_AMX \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,amx-tile,amx-int8")))
#endif

namespace ptune {
namespace {

constexpr size_t kBlock = 8, kTile = 1024, kFew = 2;

bool here() { return has_avx512() && has_tiles(); }

struct InTiles {
  int8_t* to;  // this row's high bytes in the block's first tile

  PTUNE_INLINE void operator()(size_t k, __m128i high, __m128i low) const {
    int8_t* at = to + k / 64 * kTile + k % 64;
    _mm_store_si128(reinterpret_cast<__m128i*>(at), high);
    _mm_store_si128(reinterpret_cast<__m128i*>(at + 64), low);
  }
};

PTUNE_AVX512 void round_rows(const Weights& w, const Rounding& rounding, const float* x, const Rows& rows,
                             size_t from, size_t to) {
  if (rows.count <= kFew) return kAvx512.round(w, rounding, x, rows, from, to);
  for (size_t row = from; row < to; ++row) {
    const InTiles store{rows.bytes + row / kBlock * kBlock * 2 * w.depth + row % kBlock * 128};
    round_row(x + row * w.in, w, rounding.fine, rows.excess + 2 * row, store);
  }
}

struct Place {  // of a block's sums with a panel
  const Rows& rows;
  const float *multiplier, *inverse;
  float* y;
  size_t out, row, column;
};

PTUNE_AVX512 void finish_block(const int32_t* sums, const Place& at) {
  const size_t count = at.rows.count - at.row < kBlock ? at.rows.count - at.row : kBlock;
  for (size_t row = 0; row < count; ++row)
    finish(_mm512_load_si512(sums + 32 * row), _mm512_load_si512(sums + 32 * row + 16),
           at.rows.excess + 2 * (at.row + row), at.multiplier + at.column,
           at.inverse == nullptr ? nullptr : at.inverse + at.row + row,
           at.y + (at.row + row) * at.out + at.column, first_of_16(at.out - at.column));
}

// Tiles 0 to 3: sums of two blocks with two panels; 4, 5: the blocks' bytes; 6, 7: the panels' weights.
template <bool kTwoBlocks, bool kTwoPanels>
PTUNE_AMX void add_up(const int8_t* x, const uint8_t* weights, size_t depth, int32_t (*sums)[256]) {
  const size_t block = 2 * kBlock * depth, panel = kColumns * depth;
  TILE_ZERO(0);
  TILE_ZERO(1);
  TILE_ZERO(2);
  TILE_ZERO(3);
  for (size_t at = 0; at < panel; at += kTile) {
    TILE_LOAD(4, x + at);
    if constexpr (kTwoBlocks) TILE_LOAD(5, x + block + at);
    TILE_LOAD(6, weights + at);
    TILE_ADD_PRODUCTS(0, 4, 6);
    if constexpr (kTwoBlocks) TILE_ADD_PRODUCTS(1, 5, 6);
    if constexpr (kTwoPanels) {
      TILE_LOAD(7, weights + panel + at);
      TILE_ADD_PRODUCTS(2, 4, 7);
      if constexpr (kTwoBlocks) TILE_ADD_PRODUCTS(3, 5, 7);
    }
  }
  TILE_STORE(0, sums[0]);
  if constexpr (kTwoBlocks) TILE_STORE(1, sums[1]);
  if constexpr (kTwoPanels) TILE_STORE(2, sums[2]);
  if constexpr (kTwoBlocks && kTwoPanels) TILE_STORE(3, sums[3]);
}

PTUNE_AMX void product(const Weights& w, const Rows& rows, const float* multiplier, const float* inverse,
                       float* y, size_t from, size_t to) {
  if (rows.count <= kFew) return kAvx512.product(w, rows, multiplier, inverse, y, from, to);
  TileShapes shapes;
  for (size_t tile = 0; tile < 8; ++tile) shapes.row_bytes[tile] = kTileBytes, shapes.rows[tile] = kTileRows;
  TILES_BEGIN(shapes);
  alignas(64) int32_t sums[4][256];
  for (size_t panel = from; panel < to; panel += 2) {
    const bool two_panels = panel + 1 < to;
    const uint8_t* weights = w.bytes + panel * w.depth * kColumns;
    for (size_t row = 0; row < rows.count; row += 2 * kBlock) {
      const bool two_blocks = row + kBlock < rows.count;
      const int8_t* x = rows.bytes + row * 2 * w.depth;
      if (two_blocks && two_panels)
        add_up<true, true>(x, weights, w.depth, sums);
      else if (two_blocks)
        add_up<true, false>(x, weights, w.depth, sums);
      else if (two_panels)
        add_up<false, true>(x, weights, w.depth, sums);
      else
        add_up<false, false>(x, weights, w.depth, sums);
      for (size_t at = 0; at < 4; ++at)
        if ((at % 2 == 0 || two_blocks) && (at < 2 || two_panels))
          finish_block(sums[at], {rows, multiplier, inverse, y, w.out, row + at % 2 * kBlock,
                                  (panel + at / 2) * kColumns});
    }
  }
  TILES_END();
}

}  // namespace

const Kernel kAmx{"amx", kBlock, 2, Instructions::kAvx512, here, round_rows, product};

}  // namespace ptune

#endif
