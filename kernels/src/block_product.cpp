// The operator `ptune::BlockProduct` of onnxruntime: a linear layer with weights in blocks of 32.
//
//     y [..., out] = BlockProduct(x [..., in], q uint8 [out, blocks, 16 or 32], scale [out, blocks],
//     zero uint8 or none, and what adapters add or none of it: low_rank_rows.h)
//
// Blocks are constants, as MatMulNBits has them. Attributes: bits; in; sums: numbers in each of the two
// sections of x's sums over its blocks that lie before x in the product; twice: whether the rounding error of
// x goes through the product, too; shared_as: sessions where it is the same share packed weights. Threads are
// onnxruntime's own.
#include <optional>
#include <thread>

#include "blocks.h"
#include "low_rank_rows.h"
#include "opening.h"
#include "operators.h"
#include "ort.h"
#include "shelf.h"

namespace ptune {
namespace {

constexpr size_t kProductInputs = 4;

class BlockProduct {
 public:
  explicit BlockProduct(const OrtKernelInfo* info) : kernel_(best_block_kernel()) {
    const Constant q = constant(info, 1, "q"), scale = constant(info, 2, "scale");
    w_.bits = number(info, "bits");
    w_.in = number(info, "in");
    w_.sums = number(info, "sums");
    twice_ = number(info, "twice") != 0;
    w_.blocks = (2 * w_.sums + w_.in + kOfABlock - 1) / kOfABlock;
    const size_t of_block = w_.bits * kOfABlock / 8;
    if ((w_.bits != 4 && w_.bits != 8) || w_.sums % kOfABlock != 0 || w_.in == 0)
      refuse("blocks of another kind");
    w_.out = q.count() / (w_.blocks * of_block);
    w_.panels = (w_.out + kOfAPanel - 1) / kOfAPanel;
    if (q.count() != w_.out * w_.blocks * of_block || scale.count() != w_.out * w_.blocks)
      refuse("not a block and a scale for each 32 numbers of a row");
    Blocks blocks{static_cast<const uint8_t*>(q.data), static_cast<const float*>(scale.data), zeros(info)};
    w_.zeros = blocks.zero != nullptr;
    w_.zero = w_.bits == 8 ? 128 : 8;
    w_.wide = leading_wide(w_, blocks);
    packed_ = shelf().get(text(info, "shared_as"), w_.panels * w_.panel_bytes(),
                          [&](uint8_t* room) {
                            in_shares(
                                w_.panels, kPackedByAThread / w_.panel_bytes(),
                                [&](size_t from, size_t to) { pack(w_, blocks, room, from, to); });
                          });
    w_.bytes = packed_->bytes;
    size_t inputs = 0;
    check(api->KernelInfo_GetInputCount(info, &inputs));
    if (inputs <= kProductInputs) return;
    adapters_.emplace(info, kProductInputs);
    if (adapters_->width() != w_.out) refuse("adapters of other columns");
  }

  void compute(OrtKernelContext* context) const {
    const OrtValue* input = nullptr;
    check(api->KernelContext_GetInput(context, 0, &input));
    std::vector<int64_t> shape = shape_of(input);
    if (shape.empty() || static_cast<size_t>(shape.back()) != w_.in)
      refuse("rows are not as long as weights are deep");
    BlockRows rows;
    rows.twice = twice_;
    rows.count = 1;
    for (size_t at = 0; at + 1 < shape.size(); ++at) rows.count *= static_cast<size_t>(shape[at]);
    shape.back() = static_cast<int64_t>(w_.out);
    OrtValue* output = nullptr;
    check(api->KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &output));
    if (rows.count == 0) return;
    const float* x = data_of<float>(input);
    float* y = const_cast<float*>(data_of<float>(output));
    rows.stride = row_bytes(w_) + (twice_ ? (w_.in * 4 + 63) / 64 * 64 : 0);
    rows.bytes = scratch(rows.count * rows.of_one() * rows.stride);
    // While few rows are rounded, memory has nothing else to do.
    if (rows.count <= kFewRows)
      for (size_t at = 0; at < kBytesAhead; at += 64) __builtin_prefetch(w_.bytes + at, 0, 2);
    const LowRank::Call added = adapters_ ? adapters_->begin(context, rows.count, y) : LowRank::Call();
    in_pieces(context, rows.count, kRowsTogether, kNumbersOfAPiece / w_.in,
              [&](size_t from, size_t to) { kernel_.round(w_, x, rows, from, to); });
    const bool beside = added.any() && added.few();
    if (beside) adapters_->down(context, added);
    const size_t of_a_panel = w_.panel_bytes() * (rows.count * rows.of_one() + kRowsOfAWeight);
    size_t least = std::max(kBytesOfAPiece / of_a_panel, w_.panels / kMostPieces);
    // Memory is slow to begin with factors, and with weights again: no more pieces than cores.
    if (beside) least = std::max(least, w_.panels / cores_);
    in_pieces(context, w_.panels, beside ? kPanelsWithAdapters : 1, least, [&](size_t from, size_t to) {
      if (beside) adapters_->ahead(added, from * kOfAPanel);
      kernel_.product(w_, rows, y, from, to);
      if (beside) adapters_->up(added, from * kOfAPanel, std::min(to * kOfAPanel, w_.out));
    });
    if (added.any() && !beside) adapters_->by_rows(context, added);
  }

 private:
  static constexpr size_t kRowsTogether = 16, kNumbersOfAPiece = 1 << 14;
  static constexpr size_t kFewRows = 2, kBytesAhead = 1 << 13;
  static constexpr size_t kBytesOfAPiece = 1 << 17, kMostPieces = 64;
  static constexpr size_t kPanelsWithAdapters = kPanelOfB / kOfAPanel;  // whole panels of B, too
  static constexpr size_t kRowsOfAWeight = 3;  // reading it from memory takes as long as so many products

  const uint8_t* zeros(const OrtKernelInfo* info) const {
    size_t inputs = 0;
    check(api->KernelInfo_GetInputCount(info, &inputs));
    if (inputs < 4) return nullptr;
    const Constant zero = constant(info, 3, "zero");
    if (zero.count() == 0) return nullptr;
    if (w_.bits != 4 || zero.count() != w_.out * ((w_.blocks + 1) / 2)) refuse("not a zero for each block");
    return static_cast<const uint8_t*>(zero.data);
  }

  const BlockKernel& kernel_;
  BlockWeights w_;
  bool twice_ = false;
  std::shared_ptr<const Packed> packed_;
  std::optional<LowRank> adapters_;
  size_t cores_ = std::max(1u, std::thread::hardware_concurrency());
};

constexpr size_t kInputs = kProductInputs + LowRank::kInputs;

}  // namespace

OrtCustomOp block_product() {
  OrtCustomOp op = operator_of_processor();
  op.GetName = [](const OrtCustomOp*) { return "BlockProduct"; };
  op.GetInputTypeCount = [](const OrtCustomOp*) { return kInputs; };
  op.GetInputType = [](const OrtCustomOp*, size_t at) {
    return at == 1 || at == 3  ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
           : at + 1 == kInputs ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED  // of factors, float or half
                               : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t at) {
    return at + 1 >= kProductInputs ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  computed_by<BlockProduct>(op);
  return op;
}

}  // namespace ptune
