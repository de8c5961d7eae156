#include <cstring>

#include "product.h"

namespace ptune {

size_t packed_bytes(size_t in, size_t out) {
  return (in + kDepth - 1) / kDepth * kDepth * ((out + kColumns - 1) / kColumns * kColumns);
}

void pack(const int8_t* weights, size_t in, size_t out, uint8_t* packed) {
  const size_t depth = (in + kDepth - 1) / kDepth * kDepth;
  std::memset(packed, 128, packed_bytes(in, out));
  for (size_t first = 0; first < out; first += kColumns) {
    const size_t columns = out - first < kColumns ? out - first : kColumns;
    uint8_t* panel = packed + first * depth;
    for (size_t k = 0; k < in; ++k) {
      uint8_t* four = panel + k / 4 * 4 * kColumns + k % 4;
      for (size_t column = 0; column < columns; ++column)
        four[4 * column] = static_cast<uint8_t>(weights[k * out + first + column]) ^ 0x80;
    }
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
