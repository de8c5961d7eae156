// A row's blocks after rounding, and what the plain graph makes of them before a product.
#pragma once

#include <cstring>

#include "blocks.h"

namespace ptune {

struct BlockRow {
  int8_t* q;
  float *step, *total;
};

inline BlockRow row_of(const BlockWeights& w, const BlockRows& rows, size_t row) {
  uint8_t* at = rows.bytes + row * rows.stride;
  float* step = reinterpret_cast<float*>(at + w.blocks * kOfABlock);
  return {reinterpret_cast<int8_t*>(at), step, step + w.blocks};
}

// The sum of a block of x, as a product with ones gives it, from the sums of four rounded numbers each.
// four: the block is one of whole fours.
inline float sum_of_block(const int32_t* of_four, float step, bool four) {
  float halves[2];
  for (size_t h = 0; h < 2; ++h) {
    const int32_t* at = of_four + 4 * h;  // sums of four inputs, one behind the other
    if (four)
      halves[h] = static_cast<float>(at[0] + at[2]) * step + static_cast<float>(at[1] + at[3]) * step;
    else
      halves[h] = ((static_cast<float>(at[0]) * step + static_cast<float>(at[1]) * step) +
                   static_cast<float>(at[2]) * step) +
                  static_cast<float>(at[3]) * step;
  }
  return halves[0] + halves[1];
}

}  // namespace ptune
