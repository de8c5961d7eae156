// Attention for any processor.
#define PTUNE_KERNEL inline
#define PTUNE_PART inline
#include "attention_lanes_plain.h"
// What the lanes are comes first.
#include "attention_blocks.h"

namespace ptune {

size_t room_of_attention(const AttentionLayer& layer) {
  return 2 * kKeysOfABlock * layer.width() + kRowsOfATile * kKeysOfABlock +
         numbers_of_partial(layer, kRowsOfATile);
}

template <>
const AttentionKernel<float>& plain_attention<float>() {
  return kKernel<float>;
}
template <>
const AttentionKernel<int8_t>& plain_attention<int8_t>() {
  return kKernel<int8_t>;
}

}  // namespace ptune
