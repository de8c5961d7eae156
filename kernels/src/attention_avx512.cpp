// Attention with AVX-512.
#if defined(__x86_64__)
#include "attention_lanes_avx512.h"
#define PTUNE_KERNEL PTUNE_AVX512
#define PTUNE_PART PTUNE_INLINE
// What the lanes are comes first.
#include "attention_blocks.h"

namespace ptune {

template <>
const AttentionKernel<float>& avx512_attention<float>() {
  return kKernel<float>;
}
template <>
const AttentionKernel<int8_t>& avx512_attention<int8_t>() {
  return kKernel<int8_t>;
}

}  // namespace ptune
#endif
