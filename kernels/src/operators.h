// The operators of the library.
#pragma once

#include <onnxruntime_c_api.h>

namespace ptune {

OrtCustomOp rounded_product();  // of the int8 profile
OrtCustomOp block_product();    // of the int4 profile
OrtCustomOp gated_unit();       // of both, between products
OrtCustomOp attention();        // of decoders, over a cache in float32
OrtCustomOp int8_attention();   // the same, over one in int8
OrtCustomOp low_rank_update();  // of adapters

}  // namespace ptune
