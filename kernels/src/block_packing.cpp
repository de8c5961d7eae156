#include <cmath>
#include <cstring>

#include "blocks.h"
#include "product.h"

namespace ptune {
namespace {

// The bits of a float as a half; true where the half is the same number.
bool half_of(float value, uint16_t& half) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  if (rest >= 113u << 23 && rest < 143u << 23) {  // a normal number of halves, as nearly all scales are
    half = static_cast<uint16_t>(sign | (rest - (112u << 23)) >> 13);
    return (rest & 0x1fff) == 0;
  }
  if (rest == 0) {
    half = static_cast<uint16_t>(sign);
    return true;
  }
  int exponent;
  const float fraction = std::frexp(std::fabs(value), &exponent);  // in [0.5, 1)
  if (!std::isfinite(value) || exponent > 16 || exponent < -23) return false;
  const int lost = exponent < -13 ? -13 - exponent : 0;  // bits of a number below the normal ones
  const float steps = std::ldexp(fraction, 11 - lost);
  if (steps != std::floor(steps)) return false;
  const auto whole = static_cast<uint32_t>(steps);
  const uint32_t size = lost ? whole : static_cast<uint32_t>(exponent + 14) << 10 | (whole & 0x3ff);
  half = static_cast<uint16_t>(sign | size);
  return true;
}

uint32_t zero_at(const BlockWeights& w, const Blocks& of, size_t column, size_t block) {
  return of.zero[column * ((w.blocks + 1) / 2) + block / 2] >> block % 2 * 4 & 15;
}

void pack_scales(const BlockWeights& w, const Blocks& of, size_t panel, uint8_t* to) {
  for (size_t block = 0; block < w.blocks; ++block) {
    const bool wide = block < w.wide;
    uint8_t* at = to + (wide ? block * 64 : w.wide * 64 + (block - w.wide) * 32);
    for (size_t column = 0; column < w.columns_of(panel); ++column) {
      const float scale = of.scale[(panel * kOfAPanel + column) * w.blocks + block];
      uint16_t half = 0;
      if (wide)
        std::memcpy(at + 4 * column, &scale, 4);
      else if (half_of(scale, half))
        std::memcpy(at + 2 * column, &half, 2);
    }
  }
}

void pack_zeros(const BlockWeights& w, const Blocks& of, size_t panel, uint8_t* to) {
  for (size_t block = 0; block < w.blocks; ++block)
    for (size_t column = 0; column < w.columns_of(panel); ++column) {
      uint8_t* at = to + block / 8 * 64 + 4 * column;
      uint32_t eight;
      std::memcpy(&eight, at, 4);
      eight |= zero_at(w, of, panel * kOfAPanel + column, block) << block % 8 * 4;
      std::memcpy(at, &eight, 4);
    }
}

// Eight numbers of four bits as bytes, in their order.
uint64_t bytes_of(uint32_t eight) {
  uint64_t spread = eight;
  spread = (spread | spread << 16) & 0x0000ffff0000ffff;
  spread = (spread | spread << 8) & 0x00ff00ff00ff00ff;
  return (spread | spread << 4) & 0x0f0f0f0f0f0f0f0f;
}

void pack_block(const BlockWeights& w, const Blocks& of, size_t panel, size_t block, uint8_t* to) {
  const size_t of_block = kOfABlock * w.bits / 8;
  for (size_t column = 0; column < w.columns_of(panel); ++column) {
    const uint8_t* from = of.q + ((panel * kOfAPanel + column) * w.blocks + block) * of_block;
    for (size_t half = 0; half < 2; ++half)  // of a block: 16 numbers, in two sums of eight
      if (w.bits == 8) {
        for (size_t j = 0; j < 2; ++j)
          for (size_t other = 0; other < 2; ++other)
            std::memcpy(to + (2 * half + j) * 128 + other * 64 + 4 * column, from + 16 * half + 4 * j + 8 * other, 4);
      } else {
        uint32_t first, others;
        std::memcpy(&first, from + 8 * half, 4);
        std::memcpy(&others, from + 8 * half + 4, 4);
        const uint64_t sums = bytes_of(first) | bytes_of(others) << 4;
        for (size_t j = 0; j < 2; ++j) {
          const auto sum = static_cast<uint32_t>(sums >> 32 * j);
          std::memcpy(to + (2 * half + j) * 64 + 4 * column, &sum, 4);
        }
      }
  }
}

}  // namespace

size_t row_bytes(const BlockWeights& w) { return (w.blocks * (kOfABlock + 8) + 63) / 64 * 64; }

size_t leading_wide(const BlockWeights& w, const Blocks& of) {
  size_t wide = 0;
  uint16_t half;
  for (size_t column = 0; column < w.out; ++column)
    for (size_t block = w.blocks; block > wide; --block)
      if (!half_of(of.scale[column * w.blocks + block - 1], half)) wide = block;
  return wide;
}

void pack(const BlockWeights& w, const Blocks& of, uint8_t* packed, size_t from, size_t to) {
  for (size_t panel = from; panel < to; ++panel) {
    uint8_t* at = packed + panel * w.panel_bytes();
    std::memset(at, 0, w.panel_bytes());
    pack_scales(w, of, panel, at);
    at += w.scale_bytes();
    if (w.zeros) pack_zeros(w, of, panel, at);
    at += w.zero_bytes();
    for (size_t block = 0; block < w.blocks; ++block)
      pack_block(w, of, panel, block, at + w.place_of(block) * w.block_bytes());
  }
}

const BlockKernel& best_block_kernel() {
#if defined(__x86_64__)
  const Instructions with = best_kernel().with;
  if (with == Instructions::kAvx512) return kAvx512Blocks;
  if (with == Instructions::kAvxVnni) return kAvxVnniBlocks;
  if (with == Instructions::kAvx2) return kAvx2Blocks;
#endif
  return kPlainBlocks;
}

}  // namespace ptune
