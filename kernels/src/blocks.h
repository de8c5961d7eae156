// Products of float32 rows with weights in blocks of 32 along the input, 4 or 8 bits each.
//
// A block is scale * (q - zero). A row's numbers are rounded to int8, each block by its largest one:
//
//     step = largest / 127     r = round(x * (127 / largest))     total = step * (sum of r)
//
// The arithmetic is that of onnxruntime's MatMulNBits at accuracy_level 4 where a processor has AVX-512 with
// VNNI. Floats are added up in its order, since each addition rounds:
//
//   1. As many blocks as are whole fours. A block's products are four sums of integers, (h, j) for h and j
//      0 or 1, each over k = 16 h + 4 j + {0..3, 8..11}. Sum (h, j) of the block at place p in its four goes
//      to a[p, h, j] = fma(sum, step * scale, a[p, h, j]), in the order of the fours.
//   2. d[h, w, j] = a[2 w, h, j] + a[2 w + 1, h, j].
//   3. The blocks that remain: eight sums of integers (h, w, j), each over k = 16 h + 8 w + 4 j + {0..3}, go
//      to d[h, w, j] = fma(sum, step * scale, d[h, w, j]).
//   4. Over w and j, then over h: ((d[0,0,0] + d[0,0,1]) + d[0,1,0]) + d[0,1,1], plus the same of d[1, ...].
//      In the last columns, where their number is no multiple of four: over h first, t = d[0] + d[1], then
//      (t[0,0] + t[1,0]) + (t[0,1] + t[1,1]).
//   5. Plus c, where c = fma(total, -(scale * zero), c) over all blocks in order.
//
// Every number of y has its own row and column alone: threads, tiles and other rows cannot move a bit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ptune {

constexpr size_t kOfABlock = 32, kOfAPanel = 16;

// Weights, packed: panels of 16 columns, each read once, from the first byte to the last:
//
//     scales of the first `wide` blocks, 16 floats each; of the others, 16 halves each (they lose nothing)
//     zeros, if there are any: for every eight blocks 16 numbers of 32 bits, four for each block
//     weights of all blocks at place 0 of their fours, at place 1, 2, 3, then those of the rest: for each
//     (h, j) 16 columns x 4 bytes, with the sum's first four inputs in the low four bits and its others in
//     the high ones; of 8 bits: 16 x 4 bytes of the first, then of the others
struct BlockWeights {
  size_t in = 0, out = 0;
  size_t sums = 0;    // numbers of one section of sums, a multiple of 32; 0: the input is x alone
  size_t blocks = 0;  // of the input [s, s, x], the last one padded with zeros
  size_t panels = 0;
  size_t bits = 4;
  size_t wide = 0;
  bool zeros = false;  // each block has its own
  float zero = 8;      // of all blocks otherwise
  const uint8_t* bytes = nullptr;

  size_t fours() const { return blocks / 4; }
  size_t scale_bytes() const { return (wide * 64 + (blocks - wide) * 32 + 63) / 64 * 64; }
  size_t zero_bytes() const { return zeros ? (blocks + 7) / 8 * 64 : 0; }
  size_t block_bytes() const { return bits * 64; }  // of 16 columns
  size_t panel_bytes() const { return scale_bytes() + zero_bytes() + blocks * block_bytes(); }
  size_t columns_of(size_t panel) const {
    return out - panel * kOfAPanel < kOfAPanel ? out - panel * kOfAPanel : kOfAPanel;
  }
  // Where the weights of a block lie among those of its panel.
  size_t place_of(size_t block) const {
    return block < 4 * fours() ? block % 4 * fours() + block / 4 : block;
  }
};

// Rows after rounding: [32 bytes a block][step of each block][total of each block].
struct BlockRows {
  size_t count = 0;  // of y
  bool twice = false;  // each row is two: x and its rounding error, whose products are added
  size_t stride = 0;
  uint8_t* bytes = nullptr;

  size_t of_one() const { return twice ? 2 : 1; }
};

// What is packed, as the plain graph has it.
struct Blocks {
  const uint8_t* q;     // [out, blocks, 32], of 4 bits: two a byte, the first in the low half
  const float* scale;   // [out, blocks]
  const uint8_t* zero;  // [out, blocks], 4 bits: two a byte, an even number of them for each column; or null
};

struct BlockKernel {
  const char* name;
  bool (*here)();  // whether this processor has it
  // Rounds rows [from, to) of x [count, in], with sums and errors where they belong.
  void (*round)(const BlockWeights&, const float* x, const BlockRows&, size_t from, size_t to);
  // Computes columns of panels [from, to) for all rows; y [count, out].
  void (*product)(const BlockWeights&, const BlockRows&, float* y, size_t from, size_t to);
};

extern const BlockKernel kPlainBlocks, kAvx2Blocks, kAvxVnniBlocks, kAvx512Blocks;

size_t row_bytes(const BlockWeights&);
size_t leading_wide(const BlockWeights&, const Blocks&);  // blocks up to the last whose scale is no half
void pack(const BlockWeights&, const Blocks&, uint8_t* packed, size_t from, size_t to);  // panels [from, to)
const BlockKernel& best_block_kernel();  // the one beside `best_kernel`

}  // namespace ptune
