// What the kernels share: the rounding of a row, and what becomes of its sums.
#pragma once

#include <cmath>

#include "product.h"

namespace ptune {

constexpr float kLeast = -32896.0f, kMost = 32639.0f;  // uint16 with its zero at 32896

// Two signed bytes of a number: (high - 128, low - 128) of the plain graph.
inline void two_bytes(float u, float fine, int8_t& high, int8_t& low) {
  float steps = u / fine;
  steps = steps > kLeast ? steps : kLeast;  // NaN becomes the least, as with maxps
  steps = steps < kMost ? steps : kMost;
  const int q = static_cast<int>(std::nearbyintf(steps)) + 32896;
  high = static_cast<int8_t>((q >> 8) - 128);
  low = static_cast<int8_t>((q & 255) - 128);
}

inline float joined(int32_t high, int32_t low, float multiplier) {
  return static_cast<float>(high) * multiplier + static_cast<float>(low) * multiplier * (1.0f / 256);
}

}  // namespace ptune
