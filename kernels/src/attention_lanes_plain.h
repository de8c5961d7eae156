// Sixteen numbers at once, for any processor: the same bits as attention_lanes_avx512.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace ptune {
namespace {

using Mask = uint16_t;

struct Lanes {
  float x[16];
};

// What registers hold at once: of sums of values, so many vectors of so many rows; of scores, so many rows.
constexpr size_t vectors_of_sums(size_t) { return 4; }
constexpr size_t kRowsOfTree = 4;

template <typename Make>
Lanes lanes_of(const Make& make) {
  Lanes y;
  for (size_t i = 0; i < 16; ++i) y.x[i] = make(i);
  return y;
}

inline Mask first_lanes(size_t count) { return count < 16 ? static_cast<Mask>((1u << count) - 1) : 0xffff; }
inline Lanes each(float value) {
  return lanes_of([&](size_t) { return value; });
}
inline Lanes zeros() { return each(0); }
template <typename Number>
Lanes load(const Number* from, Mask there) {
  return lanes_of([&](size_t i) { return there >> i & 1 ? static_cast<float>(from[i]) : 0.0f; });
}
template <typename Number>
Lanes load(const Number* from) {
  return load(from, 0xffff);
}
inline void store(float* to, const Lanes& a, Mask there = 0xffff) {
  for (size_t i = 0; i < 16; ++i)
    if (there >> i & 1) to[i] = a.x[i];
}
inline void store(int8_t* to, const Lanes& a, Mask there) {
  for (size_t i = 0; i < 16; ++i)
    if (there >> i & 1) {
      const float whole = std::nearbyintf(a.x[i]);  // NaN becomes the least, as AVX-512 has it
      to[i] = static_cast<int8_t>(whole > -128 ? whole < 127 ? whole : 127 : -128);
    }
}
inline Lanes add(const Lanes& a, const Lanes& b) {
  return lanes_of([&](size_t i) { return a.x[i] + b.x[i]; });
}
inline Lanes sub(const Lanes& a, const Lanes& b) {
  return lanes_of([&](size_t i) { return a.x[i] - b.x[i]; });
}
inline Lanes mul(const Lanes& a, const Lanes& b) {
  return lanes_of([&](size_t i) { return a.x[i] * b.x[i]; });
}
inline Lanes divide(const Lanes& a, const Lanes& b) {
  return lanes_of([&](size_t i) { return a.x[i] / b.x[i]; });
}
inline Lanes fma(const Lanes& a, const Lanes& b, const Lanes& c) {
  return lanes_of([&](size_t i) { return std::fma(a.x[i], b.x[i], c.x[i]); });
}
inline Lanes larger(const Lanes& a, const Lanes& b) {
  return lanes_of([&](size_t i) { return a.x[i] > b.x[i] ? a.x[i] : b.x[i]; });
}
inline Lanes keep(Mask there, const Lanes& a, const Lanes& other) {
  return lanes_of([&](size_t i) { return there >> i & 1 ? a.x[i] : other.x[i]; });
}
inline Mask below(const Lanes& a, float end) {
  Mask there = 0;
  for (size_t i = 0; i < 16; ++i) there = static_cast<Mask>(there | (a.x[i] < end ? 1u << i : 0));
  return there;
}
inline Lanes magnitude(const Lanes& a) {
  return lanes_of([&](size_t i) { return std::fabs(a.x[i]); });
}
inline Lanes with_sign_of(const Lanes& a, const Lanes& sign) {
  return lanes_of([&](size_t i) { return std::copysign(a.x[i], sign.x[i]); });
}
inline Lanes nearest(const Lanes& a) {
  return lanes_of([&](size_t i) { return std::nearbyintf(a.x[i]); });
}
inline Lanes times_two_to(const Lanes& a, const Lanes& whole) {
  return lanes_of([&](size_t i) {
    return std::isnan(whole.x[i]) ? whole.x[i] : std::ldexp(a.x[i], static_cast<int>(whole.x[i]));
  });
}

// Sums of lanes, for the lanes of several vectors at once: in four stages, 8, 4, 2 and 1 apart.
template <size_t Stage>
Lanes halves(const Lanes& a, const Lanes& b) {
  constexpr size_t apart = 16 >> Stage,
                   groups = 1 << (Stage - 1);  // a vector holds `groups` keys of 2 * apart lanes
  return lanes_of([&](size_t i) {
    const size_t key = i / apart;
    const Lanes& of = key < groups ? a : b;
    const size_t at = key % groups * 2 * apart + i % apart;
    return of.x[at] + of.x[at + apart];
  });
}
inline Lanes in_order(const Lanes& a) { return a; }

inline void transpose(Lanes (&rows)[16]) {
  for (size_t i = 0; i < 16; ++i)
    for (size_t j = 0; j < i; ++j) std::swap(rows[i].x[j], rows[j].x[i]);
}

}  // namespace
}  // namespace ptune
