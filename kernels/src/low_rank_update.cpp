// The operator `ptune::LowRankUpdate` of onnxruntime: what adapters add, behind operators that do not do it
// themselves.
//
//     y [..., out] = LowRankUpdate(base [..., out], x, mask, ones, factors)
//
// Inputs and attributes: low_rank_rows.h.
#include <cstring>

#include "low_rank_rows.h"
#include "operators.h"

namespace ptune {
namespace {

class LowRankUpdate {
 public:
  explicit LowRankUpdate(const OrtKernelInfo* info) : adapters_(info, 1) {}

  void compute(OrtKernelContext* context) const {
    const OrtValue* input = nullptr;
    check(api->KernelContext_GetInput(context, 0, &input));
    const std::vector<int64_t> shape = shape_of(input);
    OrtValue* output = nullptr;
    check(api->KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &output));
    size_t count = 1;
    for (const int64_t size : shape) count *= static_cast<size_t>(size);
    const float* base = data_of<float>(input);
    float* y = const_cast<float*>(data_of<float>(output));
    if (y != base) std::memcpy(y, base, count * sizeof(float));
    if (count % adapters_.width() != 0) refuse("rows are not as long as the layers' outputs");
    const LowRank::Call call = adapters_.begin(context, count / adapters_.width(), y);
    if (!call.any()) return;
    if (!call.few()) return adapters_.by_rows(context, call);
    adapters_.down(context, call);
    in_pieces(context, adapters_.width(), kPanelOfB, kColumnsOfAPiece,
              [&](size_t from, size_t to) { adapters_.up(call, from, to); });
  }

 private:
  static constexpr size_t kColumnsOfAPiece = 1024;

  LowRank adapters_;
};

constexpr size_t kInputs = 1 + LowRank::kInputs;

}  // namespace

OrtCustomOp low_rank_update() {
  OrtCustomOp op = operator_of_processor();
  op.GetName = [](const OrtCustomOp*) { return "LowRankUpdate"; };
  op.GetInputTypeCount = [](const OrtCustomOp*) { return kInputs; };
  op.GetInputType = [](const OrtCustomOp*, size_t at) {
    return at + 1 == kInputs ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED  // either type
                             : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t at) {
    return at + 2 == kInputs ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  // y may lie where the base's output lies: then rows without an adapter cost nothing.
  op.GetMayInplace = [](int** from, int** to) -> size_t {
    static int base = 0, y = 0;
    *from = &base;
    *to = &y;
    return 1;
  };
  op.ReleaseMayInplace = [](int*, int*) {};
  computed_by<LowRankUpdate>(op);
  return op;
}

}  // namespace ptune
