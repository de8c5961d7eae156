// Functions of sixteen numbers for attention, each within about an ulp: the same steps for any sort of lanes.
#pragma once

#include <cstddef>

namespace ptune {
namespace {

constexpr float kLeastExponent = -86;  // below it exp counts as 0: what it would add is far below an ulp

// exp(x) of x <= 0: 2^n times the series at what is left of x.
PTUNE_PART Lanes exp_of(Lanes x) {
  const Lanes n = nearest(mul(x, each(1.44269504f)));
  const Lanes rest = fma(n, each(2.12194440e-4f), fma(n, each(-0.693359375f), x));
  Lanes y = each(1.0f / 5040);
  y = fma(y, rest, each(1.0f / 720));
  y = fma(y, rest, each(1.0f / 120));
  y = fma(y, rest, each(1.0f / 24));
  y = fma(y, rest, each(1.0f / 6));
  y = fma(y, rest, each(0.5f));
  y = fma(y, rest, each(1));
  y = fma(y, rest, each(1));
  return keep(below(x, kLeastExponent), zeros(), times_two_to(y, n));
}

// (1 - e) / (1 + e) with e = exp(-2 |x|); near 0 a polynomial, where that would lose digits.
PTUNE_PART Lanes tanh_of(Lanes x) {
  const Lanes size = magnitude(x), e = exp_of(mul(size, each(-2))), square = mul(x, x);
  const Lanes far = divide(sub(each(1), e), add(each(1), e));
  Lanes near = each(-5.70498872745e-3f);
  near = fma(near, square, each(2.06390887954e-2f));
  near = fma(near, square, each(-5.37397155531e-2f));
  near = fma(near, square, each(1.33314422036e-1f));
  near = fma(near, square, each(-3.33332819422e-1f));
  near = fma(mul(near, square), size, size);
  return with_sign_of(keep(below(size, 0.625f), near, far), x);
}

// The lanes [from, to) of numbers that begin at k.
PTUNE_PART Mask between(size_t from, size_t to, size_t k) {
  const Mask begun = first_lanes(to > k ? to - k : 0), before = first_lanes(from > k ? from - k : 0);
  return static_cast<Mask>(begun & ~before);
}

PTUNE_PART float total_of(Lanes a) {
  float x[16];
  store(x, a);
  for (size_t apart = 8; apart > 0; apart /= 2)
    for (size_t i = 0; i < apart; ++i) x[i] += x[i + apart];
  return x[0];
}

PTUNE_PART float largest_of(Lanes a) {
  float x[16];
  store(x, a);
  for (size_t i = 1; i < 16; ++i) x[0] = x[0] > x[i] ? x[0] : x[i];
  return x[0];
}

}  // namespace
}  // namespace ptune
