// Products of float32 rows with int8 weights: rows are rounded to two bytes, sums are exact.
//
// The arithmetic is that of the plain graph which ptune.export.decoder.int8 writes, operation by operation:
//
//     q = round(u / fine) limited to [-32896, 32639], + 32896 = 256 high + low        u: a row's n numbers
//     H = sum over k of (high - 128) w,  L = sum over k of (low - 128) w              int32, exact
//     y = float(H) m + float(L) m / 256,  m = step * scale of the column              then y / inverse, where
//     there is one
//
// Sums of integers do not depend on their order, so every kernel, tile, batch and thread count gives the same
// bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ptune {

constexpr size_t kColumns = 16;        // of a panel
constexpr size_t kDepth = 64;          // inputs are padded to a multiple of it
constexpr size_t kMostInputs = 65536;  // int32 holds the sum of so many products of bytes

// Weights [in, out], packed: panels of 16 columns, in each for every four inputs 16 x 4 bytes, w + 128. Read
// once, from the first byte to the last; 64 inputs of a panel are a tile of AMX.
struct Weights {
  size_t in = 0, out = 0;
  size_t depth = 0;   // in, padded to kDepth
  size_t panels = 0;  // out / kColumns, rounded up
  const uint8_t* bytes = nullptr;
};

struct Rounding {
  float fine;  // step of the low byte
  float step;  // of the high byte
};

// Rows after rounding. A kernel chooses their layout.
struct Rows {
  size_t count = 0;
  int8_t* bytes = nullptr;  // depth * bytes_of_number a row, and room for whole blocks
  int32_t* excess =
      nullptr;  // [2] a row: 128 * the sum of its high, of its low bytes, since weights are stored as w + 128
};

// What a kernel needs of the processor. All but the first one have AVX2, and the last two VNNI.
enum class Instructions { kPlain, kAvx2, kAvxVnni, kAvx512 };

struct Kernel {
  const char* name;
  size_t rows_together;    // lie in one block, which may be padded
  size_t bytes_of_number;  // after rounding
  Instructions with;       // for the operators beside products
  bool (*here)();        // whether this processor has it
  // Rounds rows [from, to) of x [count, in].
  void (*round)(const Weights&, const Rounding&, const float* x, const Rows&, size_t from, size_t to);
  // Computes columns of panels [from, to) for all rows; y [count, out]; multiplier [out], inverse [count] or
  // null.
  void (*product)(const Weights&, const Rows&, const float* multiplier, const float* inverse, float* y,
                  size_t from, size_t to);
};

extern const Kernel kPlain, kAvx2, kAvxVnni, kAvx512, kAmx;

size_t packed_bytes(size_t in, size_t out);
// Packs panels [from, to), of zeros where padded.
void pack(const int8_t* weights, size_t in, size_t out, uint8_t* packed, size_t from, size_t to);
const Kernel& best_kernel();  // that this processor has, or the chosen one
bool use_kernel(
    const char* name);  // chooses one; false where this processor has none of this name; null: the best

}  // namespace ptune
