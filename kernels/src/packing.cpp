#include <cstring>

#include "product.h"
#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace ptune {

size_t packed_bytes(size_t in, size_t out) {
  return (in + kDepth - 1) / kDepth * kDepth * ((out + kColumns - 1) / kColumns * kColumns);
}

namespace {

// Four inputs of 16 columns, as bytes w + 128 of each column beside each other; 128 where there are none.
void pack_four(const int8_t* weights, size_t in, size_t out, size_t k, size_t first, uint8_t* to) {
#if defined(__x86_64__)
  if (k + 4 <= in && first + kColumns <= out) {
    __m128i row[4];
    for (size_t t = 0; t < 4; ++t)
      row[t] = _mm_xor_si128(_mm_set1_epi8(-128), _mm_loadu_si128(reinterpret_cast<const __m128i*>(
                                                      weights + (k + t) * out + first)));
    const __m128i ab[] = {_mm_unpacklo_epi8(row[0], row[1]), _mm_unpackhi_epi8(row[0], row[1])};
    const __m128i cd[] = {_mm_unpacklo_epi8(row[2], row[3]), _mm_unpackhi_epi8(row[2], row[3])};
    auto* four = reinterpret_cast<__m128i*>(to);
    for (size_t half = 0; half < 2; ++half) {
      _mm_storeu_si128(four + 2 * half, _mm_unpacklo_epi16(ab[half], cd[half]));
      _mm_storeu_si128(four + 2 * half + 1, _mm_unpackhi_epi16(ab[half], cd[half]));
    }
    return;
  }
#endif
  std::memset(to, 128, 4 * kColumns);
  for (size_t t = 0; t < 4 && k + t < in; ++t)
    for (size_t column = 0; column < kColumns && first + column < out; ++column)
      to[4 * column + t] = static_cast<uint8_t>(weights[(k + t) * out + first + column]) ^ 0x80;
}

}  // namespace

void pack(const int8_t* weights, size_t in, size_t out, uint8_t* packed, size_t from, size_t to) {
  const size_t depth = (in + kDepth - 1) / kDepth * kDepth;
  // So many inputs at a time: the lines of memory that they lie in serve several panels.
  for (size_t begin = 0; begin < depth; begin += kDepth)
    for (size_t panel = from; panel < to; ++panel) {
      uint8_t* tile = packed + (panel * depth + begin) * kColumns;
      for (size_t k = 0; k < kDepth; k += 4)
        pack_four(weights, in, out, begin + k, panel * kColumns, tile + k * kColumns);
    }
}

namespace {

const Kernel* const kKernels[] = {// best first
#if defined(__x86_64__)
                                  &kAmx, &kAvx512, &kAvxVnni, &kAvx2,
#endif
                                  &kPlain};

const Kernel* first_here(const char* name) {
  for (const Kernel* kernel : kKernels)
    if (kernel->here() && (name == nullptr || std::strcmp(kernel->name, name) == 0)) return kernel;
  return nullptr;
}

const Kernel*& chosen() {
  static const Kernel* kernel = first_here(nullptr);
  return kernel;
}

}  // namespace

const Kernel& best_kernel() { return *chosen(); }

bool use_kernel(const char* name) {
  const Kernel* found = first_here(name);
  if (found != nullptr) chosen() = found;
  return found != nullptr;
}

}  // namespace ptune
