// Attention with AVX2.
#if defined(__x86_64__)
#include "attention_lanes_avx2.h"
#define PTUNE_KERNEL PTUNE_AVX2
#define PTUNE_PART PTUNE_AVX2_INLINE
// What the lanes are comes first.
#include "attention_blocks.h"

namespace ptune {

template <>
const AttentionKernel<float>& avx2_attention<float>() {
  return kKernel<float>;
}
template <>
const AttentionKernel<int8_t>& avx2_attention<int8_t>() {
  return kKernel<int8_t>;
}

}  // namespace ptune
#endif
