// The operator `ptune::RoundedProduct` of onnxruntime: a linear layer in int8 with its rounding, in one node.
//
//     y [..., out] = RoundedProduct(u [..., in], weights int8 [in, out], scale [out], step [], fine [],
//     inverse [..., 1] or none, and what adapters add or none of it: low_rank_rows.h)
//
// Weights, scale, step and fine are constants. Weights are packed when the session opens; sessions whose
// attribute `shared_as` is the same share them. Threads are onnxruntime's own.
#include <optional>
#include <thread>

#include "low_rank_rows.h"
#include "opening.h"
#include "operators.h"
#include "ort.h"
#include "product.h"
#include "shelf.h"

namespace ptune {
namespace {

constexpr size_t kProductInputs = 6;

class RoundedProduct {
 public:
  explicit RoundedProduct(const OrtKernelInfo* info) : kernel_(best_kernel()) {
    const Constant weights = constant(info, 1, "weights"), scale = constant(info, 2, "scale");
    if (weights.shape.size() != 2) refuse("weights have other than two dimensions");
    weights_.in = static_cast<size_t>(weights.shape[0]);
    weights_.out = static_cast<size_t>(weights.shape[1]);
    weights_.depth = (weights_.in + kDepth - 1) / kDepth * kDepth;
    weights_.panels = (weights_.out + kColumns - 1) / kColumns;
    if (weights_.in == 0 || weights_.in > kMostInputs) refuse(std::to_string(weights_.in) + " inputs");
    if (scale.count() != weights_.out) refuse("not a scale for each column");
    rounding_.step = scalar(info, 3, "step");
    rounding_.fine = scalar(info, 4, "fine");
    multiplier_.resize(weights_.out);
    for (size_t at = 0; at < weights_.out; ++at)
      multiplier_[at] = rounding_.step * static_cast<const float*>(scale.data)[at];
    const auto* numbers = static_cast<const int8_t*>(weights.data);
    packed_ = shelf().get(text(info, "shared_as"), packed_bytes(weights_.in, weights_.out),
                          [&](uint8_t* room) {
                            in_shares(weights_.panels, kPackedByAThread / (weights_.depth * kColumns),
                                      [&](size_t from, size_t to) {
                                        pack(numbers, weights_.in, weights_.out, room, from, to);
                                      });
                          });
    weights_.bytes = packed_->bytes;
    size_t inputs = 0;
    check(api->KernelInfo_GetInputCount(info, &inputs));
    if (inputs <= kProductInputs) return;
    adapters_.emplace(info, kProductInputs);
    if (adapters_->width() != weights_.out) refuse("adapters of other columns");
  }

  void compute(OrtKernelContext* context) const {
    const OrtValue *u = nullptr, *divisors = nullptr;
    check(api->KernelContext_GetInput(context, 0, &u));
    check(api->KernelContext_GetInput(context, 5, &divisors));
    std::vector<int64_t> shape = shape_of(u);
    if (shape.empty() || static_cast<size_t>(shape.back()) != weights_.in)
      refuse("rows are not as long as weights are deep");
    Rows rows;
    rows.count = 1;
    for (size_t at = 0; at + 1 < shape.size(); ++at) rows.count *= static_cast<size_t>(shape[at]);
    shape.back() = static_cast<int64_t>(weights_.out);
    OrtValue* output = nullptr;
    check(api->KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &output));
    if (rows.count == 0) return;
    const float* x = data_of<float>(u);
    const float* inverse = divisors == nullptr ? nullptr : data_of<float>(divisors);
    float* y = const_cast<float*>(data_of<float>(output));
    const size_t blocks = (rows.count + kernel_.rows_together - 1) / kernel_.rows_together;
    const size_t bytes = blocks * kernel_.rows_together * kernel_.bytes_of_number * weights_.depth;
    uint8_t* room = scratch(bytes + rows.count * 2 * sizeof(int32_t));
    rows.bytes = reinterpret_cast<int8_t*>(room);
    rows.excess = reinterpret_cast<int32_t*>(room + bytes);
    const LowRank::Call added = adapters_ ? adapters_->begin(context, rows.count, y) : LowRank::Call();
    in_pieces(context, rows.count, kRowsTogether, kNumbersOfAPiece / weights_.in,
              [&](size_t from, size_t to) { kernel_.round(weights_, rounding_, x, rows, from, to); });
    const bool beside = added.any() && added.few();
    if (beside) adapters_->down(context, added);
    const size_t products_of_a_panel = weights_.depth * kColumns * (rows.count + kRowsOfAWeight);
    size_t least = kProductsOfAPiece / products_of_a_panel;
    // Memory is slow to begin with factors, and with weights again: no more pieces than cores.
    if (beside) least = std::max(least, weights_.panels / cores_);
    in_pieces(context, weights_.panels, beside ? kPanelsWithAdapters : kPanelsTogether, least,
              [&](size_t from, size_t to) {
                if (beside) adapters_->ahead(added, from * kColumns);
                kernel_.product(weights_, rows, multiplier_.data(), inverse, y, from, to);
                if (beside) adapters_->up(added, from * kColumns, std::min(to * kColumns, weights_.out));
              });
    if (added.any() && !beside) adapters_->by_rows(context, added);
  }

 private:
  static constexpr size_t kRowsTogether = 16, kPanelsTogether = 3;
  static constexpr size_t kPanelsWithAdapters = 12;  // whole panels of B, too
  static constexpr size_t kNumbersOfAPiece = 1 << 15, kProductsOfAPiece = 1 << 20;
  static constexpr size_t kRowsOfAWeight = 7;  // reading it from memory takes as long as so many products

  const Kernel& kernel_;
  Weights weights_;
  Rounding rounding_{};
  std::vector<float> multiplier_;
  std::shared_ptr<const Packed> packed_;
  std::optional<LowRank> adapters_;
  size_t cores_ = std::max(1u, std::thread::hardware_concurrency());
};

constexpr size_t kInputs = kProductInputs + LowRank::kInputs;

}  // namespace

OrtCustomOp rounded_product() {
  OrtCustomOp op = operator_of_processor();
  op.GetName = [](const OrtCustomOp*) { return "RoundedProduct"; };
  op.GetInputTypeCount = [](const OrtCustomOp*) { return kInputs; };
  op.GetInputType = [](const OrtCustomOp*, size_t at) {
    return at == 1             ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8
           : at + 1 == kInputs ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED  // of factors, float or half
                               : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t at) {
    return at + 1 >= kProductInputs ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  computed_by<RoundedProduct>(op);
  return op;
}

}  // namespace ptune
