// For any processor. Rows: high bytes, then low bytes, [2, depth] each.
#include <cstring>

#include "rounding.h"

namespace ptune {
namespace {

bool here() { return true; }

void round_rows(const Weights& w, const Rounding& rounding, const float* x, const Rows& rows, size_t from,
                size_t to) {
  for (size_t row = from; row < to; ++row) {
    int8_t* high = rows.bytes + row * 2 * w.depth;
    int8_t* low = high + w.depth;
    std::memset(high, 0, 2 * w.depth);
    int32_t sums[2] = {0, 0};
    for (size_t k = 0; k < w.in; ++k) {
      two_bytes(x[row * w.in + k], rounding.fine, high[k], low[k]);
      sums[0] += high[k];
      sums[1] += low[k];
    }
    rows.excess[2 * row] = sums[0] * 128;
    rows.excess[2 * row + 1] = sums[1] * 128;
  }
}

void product(const Weights& w, const Rows& rows, const float* multiplier, const float* inverse, float* y,
             size_t from, size_t to) {
  for (size_t panel = from; panel < to; ++panel) {
    const uint8_t* weights = w.bytes + panel * w.depth * kColumns;
    const size_t first = panel * kColumns;
    const size_t columns = w.out - first < kColumns ? w.out - first : kColumns;
    for (size_t row = 0; row < rows.count; ++row) {
      const int8_t* high = rows.bytes + row * 2 * w.depth;
      const int8_t* low = high + w.depth;
      uint32_t sums[2][kColumns] = {};  // unsigned: what wraps around comes back
      for (size_t k = 0; k < w.in; ++k) {
        const uint8_t* four = weights + k / 4 * 4 * kColumns + k % 4;
        for (size_t column = 0; column < kColumns; ++column) {
          sums[0][column] += static_cast<uint32_t>(four[4 * column] * high[k]);
          sums[1][column] += static_cast<uint32_t>(four[4 * column] * low[k]);
        }
      }
      for (size_t column = 0; column < columns; ++column) {
        const auto h = static_cast<int32_t>(sums[0][column] - static_cast<uint32_t>(rows.excess[2 * row]));
        const auto l =
            static_cast<int32_t>(sums[1][column] - static_cast<uint32_t>(rows.excess[2 * row + 1]));
        const float value = joined(h, l, multiplier[first + column]);
        y[row * w.out + first + column] = inverse == nullptr ? value : value / inverse[row];
      }
    }
  }
}

}  // namespace

const Kernel kPlain{"plain", 1, 2, Instructions::kPlain, here, round_rows, product};

}  // namespace ptune
