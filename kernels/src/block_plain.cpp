// For any processor, number by number: what the kernel for AVX-512 is compared with.
#include <cmath>
#include <vector>

#include "block_rounding.h"

namespace ptune {
namespace {

bool here() { return true; }

void round_block(const float* x, size_t count, int8_t* q, float& step, float& total) {
  float largest = 0;
  for (size_t k = 0; k < count; ++k) {
    const float size = std::fabs(x[k]);
    largest = largest > size ? largest : size;  // NaN takes its place, as with maxps
  }
  step = largest / 127.0f;
  const float inverse = largest != 0 ? 127.0f / largest : 0.0f;
  int32_t sum = 0;
  for (size_t k = 0; k < kOfABlock; ++k) {
    const float steps = k < count ? std::nearbyintf(x[k] * inverse) : 0;
    q[k] = std::isfinite(steps) ? static_cast<int8_t>(steps) : 0;
    sum += q[k];
  }
  total = step * static_cast<float>(sum);
}

void round_all(const float* x, size_t count, const BlockRow& row, size_t first) {
  for (size_t k = 0; k < count; k += kOfABlock) {
    const size_t block = first + k / kOfABlock;
    round_block(x + k, count - k < kOfABlock ? count - k : kOfABlock, row.q + block * kOfABlock,
                row.step[block], row.total[block]);
  }
}

void round_with_sums(const BlockWeights& w, const float* x, const BlockRow& row) {
  const size_t first = 2 * w.sums / kOfABlock, blocks = w.blocks - first;
  round_all(x, w.in, row, first);
  if (w.sums == 0) return;
  std::vector<float> sums(w.sums);
  for (size_t block = 0; block < blocks; ++block) {
    int32_t of_four[8] = {};
    for (size_t k = 0; k < kOfABlock; ++k) of_four[k / 4] += row.q[(first + block) * kOfABlock + k];
    sums[block] = sum_of_block(of_four, row.step[first + block], block < blocks / 4 * 4);
  }
  round_all(sums.data(), w.sums, row, 0);
  round_all(sums.data(), w.sums, row, w.sums / kOfABlock);
}

void round_rows(const BlockWeights& w, const float* x, const BlockRows& rows, size_t from, size_t to) {
  std::vector<float> rest(w.in);
  for (size_t at = from; at < to; ++at) {
    const BlockRow row = row_of(w, rows, at * rows.of_one());
    round_with_sums(w, x + at * w.in, row);
    if (!rows.twice) continue;
    for (size_t k = 0; k < w.in; ++k) {
      const size_t block = 2 * w.sums / kOfABlock + k / kOfABlock;
      const float rounded = static_cast<float>(row.q[block * kOfABlock + k % kOfABlock]) * row.step[block];
      rest[k] = x[at * w.in + k] - rounded;
    }
    round_with_sums(w, rest.data(), row_of(w, rows, at * 2 + 1));
  }
}

struct Panel {  // as it is packed
  const BlockWeights& w;
  const uint8_t* bytes;

  float scale(size_t block, size_t column) const {
    if (block < w.wide) {
      float scale;
      std::memcpy(&scale, bytes + block * 64 + 4 * column, 4);
      return scale;
    }
    uint16_t half;
    std::memcpy(&half, bytes + w.wide * 64 + (block - w.wide) * 32 + 2 * column, 2);
    const int exponent = half >> 10 & 31, fraction = half & 0x3ff;
    const float size = std::ldexp(static_cast<float>(exponent ? fraction | 0x400 : fraction),
                                  (exponent ? exponent : 1) - 25);
    return half & 0x8000 ? -size : size;
  }

  float zero(size_t block, size_t column) const {
    if (!w.zeros) return w.zero;
    uint32_t eight;
    std::memcpy(&eight, bytes + w.scale_bytes() + block / 8 * 64 + 4 * column, 4);
    return static_cast<float>(eight >> block % 8 * 4 & 15);
  }

  // The sum of four products: inputs 16 h + 8 w + 4 j + {0..3}.
  int32_t four(const int8_t* q, size_t block, size_t h, size_t which, size_t j, size_t column) const {
    const uint8_t* at = bytes + w.scale_bytes() + w.zero_bytes() + w.place_of(block) * w.block_bytes();
    int32_t sum = 0;
    for (size_t t = 0; t < 4; ++t) {
      const size_t of = (2 * h + j) * w.bits * 16 + 4 * column + t;
      const int32_t weight = w.bits == 8 ? at[of + which * 64] : at[of] >> which * 4 & 15;
      sum += weight * q[block * kOfABlock + 16 * h + 8 * which + 4 * j + t];
    }
    return sum;
  }
};

float number(const Panel& panel, const BlockRow& row, size_t column, bool last_columns) {
  const BlockWeights& w = panel.w;
  float a[4][2][2] = {}, d[2][2][2];
  for (size_t block = 0; block < 4 * w.fours(); ++block)
    for (size_t h = 0; h < 2; ++h)
      for (size_t j = 0; j < 2; ++j) {
        const int32_t sum =
            panel.four(row.q, block, h, 0, j, column) + panel.four(row.q, block, h, 1, j, column);
        float& to = a[block % 4][h][j];
        to = std::fma(static_cast<float>(sum), row.step[block] * panel.scale(block, column), to);
      }
  for (size_t h = 0; h < 2; ++h)
    for (size_t which = 0; which < 2; ++which)
      for (size_t j = 0; j < 2; ++j) {
        float& to = d[h][which][j] = a[2 * which][h][j] + a[2 * which + 1][h][j];
        for (size_t block = 4 * w.fours(); block < w.blocks; ++block)
          to = std::fma(static_cast<float>(panel.four(row.q, block, h, which, j, column)),
                        row.step[block] * panel.scale(block, column), to);
      }
  float c = 0;
  for (size_t block = 0; block < w.blocks; ++block)
    c = std::fma(row.total[block], panel.scale(block, column) * -panel.zero(block, column), c);
  if (last_columns) {
    float t[2][2];
    for (size_t which = 0; which < 2; ++which)
      for (size_t j = 0; j < 2; ++j) t[which][j] = d[0][which][j] + d[1][which][j];
    return c + ((t[0][0] + t[1][0]) + (t[0][1] + t[1][1]));
  }
  float halves[2];
  for (size_t h = 0; h < 2; ++h) halves[h] = ((d[h][0][0] + d[h][0][1]) + d[h][1][0]) + d[h][1][1];
  return c + (halves[0] + halves[1]);
}

void product(const BlockWeights& w, const BlockRows& rows, float* y, size_t from, size_t to) {
  for (size_t panel = from; panel < to; ++panel) {
    const Panel packed{w, w.bytes + panel * w.panel_bytes()};
    for (size_t row = 0; row < rows.count; ++row)
      for (size_t column = 0; column < w.columns_of(panel); ++column) {
        const size_t place = panel * kOfAPanel + column;
        const bool last_columns = place >= w.out / 4 * 4;
        float value = number(packed, row_of(w, rows, row * rows.of_one()), column, last_columns);
        if (rows.twice) value += number(packed, row_of(w, rows, row * 2 + 1), column, last_columns);
        y[row * w.out + place] = value;
      }
  }
}

}  // namespace

const BlockKernel kPlainBlocks{"plain", here, round_rows, product};

}  // namespace ptune
