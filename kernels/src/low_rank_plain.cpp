// Low-rank updates in plain C++.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "low_rank.h"

namespace ptune {
namespace {

float of_half(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, rest = half & 0x7fff;
  uint32_t bits = sign | (rest << 13);
  if (rest < 0x400) {  // zero, or below the least normal number
    const float small = static_cast<float>(rest) * (1.0f / (1 << 24));
    std::memcpy(&bits, &small, 4);
    bits |= sign;
  } else {
    bits += rest < 0x7c00 ? (127u - 15) << 23 : (255u - 31) << 23;
  }
  float found;
  std::memcpy(&found, &bits, 4);
  return found;
}

float at(const void* factor, bool halves, size_t index) {
  return halves ? of_half(static_cast<const uint16_t*>(factor)[index])
                : static_cast<const float*>(factor)[index];
}

void down(const Factors& f, const Sharing& rows) {
  for (size_t row = 0; row < rows.count; ++row)
    for (size_t r = 0; r < f.rank; ++r) {
      float sums[4] = {};
      for (size_t k = 0; k < f.in; ++k)
        sums[k % 4] = std::fma(rows.x[row][k], at(f.a, f.halves, k * f.rank + r), sums[k % 4]);
      const float low = ((sums[0] + sums[1]) + (sums[2] + sums[3])) * rows.mask[row][r];
      rows.low[row][r] = rows.ones[row] == nullptr ? low : low + rows.ones[row][r];
    }
}

void up(const Factors& f, const Sharing& rows, size_t from, size_t to) {
  for (size_t row = 0; row < rows.count; ++row)
    for (size_t j = from; j < to; ++j) {
      const size_t panel = j / kPanelOfB * kPanelOfB, width = std::min(kPanelOfB, f.out - panel);
      float update = 0;
      for (size_t r = 0; r < f.rank; ++r)
        update = std::fma(rows.low[row][r],
                          at(f.b, f.halves, panel * f.rank + r * width + j - panel), update);
      rows.y[row][j] += update;
    }
}

}  // namespace

const LowRankKernel kPlainLowRank = {down, up};

}  // namespace ptune
