#include "low_rank_rows.h"

#include "product.h"

namespace ptune {
namespace {

constexpr size_t kBytesOfAPiece = 48 << 10;  // of factors
constexpr size_t kFetched = 1 << 12;         // bytes: a page

std::vector<size_t> numbers(const OrtKernelInfo* info, const char* name) {
  size_t count = 0;
  check(api->KernelInfoGetAttributeArray_int64(info, name, nullptr, &count));
  std::vector<int64_t> found(count);
  check(api->KernelInfoGetAttributeArray_int64(info, name, found.data(), &count));
  return {found.begin(), found.end()};
}

const OrtValue* input(OrtKernelContext* context, size_t at) {
  const OrtValue* value = nullptr;
  check(api->KernelContext_GetInput(context, at, &value));
  return value;
}

// Of a value of so many dimensions, without memory of its own.
template <size_t kRank>
struct Sizes {
  int64_t of[kRank] = {};

  Sizes(const OrtValue* value, const char* name) {
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api->GetTensorTypeAndShape(value, &info));
    size_t rank = 0;
    OrtStatus* status = api->GetDimensionsCount(info, &rank);
    if (status == nullptr && rank == kRank) status = api->GetDimensions(info, of, rank);
    api->ReleaseTensorTypeAndShapeInfo(info);
    check(status);
    if (rank != kRank) refuse(std::string(name) + " has other dimensions");
  }

  size_t operator[](size_t at) const { return static_cast<size_t>(of[at]); }
};

// The first factors of some rows: the processor fetches the rest by itself, once it has seen them being read.
void fetch(const uint8_t* factors) {
  for (size_t at = 0; at < kFetched; at += 64) __builtin_prefetch(factors + at, 0, 2);
}

// Memory of this thread for one call, beside the operator's own.
uint8_t* room_for(size_t size) {
  static thread_local std::vector<uint8_t> room;
  if (room.size() < size) room.resize(size);
  return room.data();
}

}  // namespace

LowRank::LowRank(const OrtKernelInfo* info, size_t first)
    : first_(first),
      in_(number(info, "lora_in")),
      outputs_(numbers(info, "lora_outputs")),
      begin_(number(info, "lora_begin")),
      numbers_(number(info, "lora_numbers")),
      of_a_number_(number(info, "lora_halves") != 0 ? 2 : 4) {
  for (const size_t out : outputs_) {
    begins_.push_back(width_);
    width_ += out;
  }
  if (outputs_.empty() || begin_ + outputs_.size() * in_ + width_ > numbers_) refuse("factors end too early");
#if defined(__x86_64__)
  const Instructions with = best_kernel().with;
  if (with != Instructions::kPlain) kernel_ = with == Instructions::kAvx512 ? &kAvx512LowRank : &kAvx2LowRank;
#endif
}

LowRank::Call LowRank::begin(OrtKernelContext* context, size_t rows, float* y) const {
  Call call;
  const OrtValue *factors = input(context, first_ + 3), *mask = input(context, first_ + 1);
  const Sizes<2> lines(factors, "factors");
  const Sizes<3> marks(mask, "the mask");
  call.rank_ = marks[2];
  if (call.rank_ == 0) return call;
  const size_t groups = marks[0], tokens = marks[1], line = numbers_ * call.rank_;
  if (rows != groups * tokens) refuse("not a row of the mask for each row");
  if (lines[1] != line || (lines[0] != 1 && lines[0] != groups))
    refuse("not a line of factors for each group");
  call.factors_ = data_of<uint8_t>(factors) + begin_ * call.rank_ * of_a_number_;
  fetch(call.factors_);
  const OrtValue* ones = input(context, first_ + 2);
  call.of_a_group_ = lines[0] == 1 ? 0 : line * of_a_number_;
  call.x_ = data_of<float>(input(context, first_));
  call.mask_ = data_of<float>(mask);
  call.ones_ = ones == nullptr ? nullptr : data_of<float>(ones);
  call.y_ = y;
  const size_t together = rows * sizeof(Call::Together);
  uint8_t* room = room_for(together + rows * outputs_.size() * call.rank_ * sizeof(float));
  call.together_ = reinterpret_cast<Call::Together*>(room);
  call.low_ = reinterpret_cast<float*>(room + together);
  gather(call, rows, tokens);
  return call;
}

bool LowRank::has_adapter(const Call& call, size_t row) const {
  for (size_t at = row * call.rank_; at < (row + 1) * call.rank_; ++at)
    if (call.mask_[at] != 0 || (call.ones_ != nullptr && call.ones_[at] != 0)) return true;
  return false;
}

// Puts rows of one adapter together.
void LowRank::gather(Call& call, size_t rows, size_t tokens) const {
  size_t first = 0;
  for (size_t row = 0; row < rows; ++row) {
    if (!has_adapter(call, row)) continue;
    const size_t group = row / tokens;
    Call::Together* last = call.count_ == 0 ? nullptr : call.together_ + call.count_ - 1;
    if (last == nullptr || last->group != group || last->count == kRowsOfFactors) {
      last = call.together_ + call.count_++;
      *last = {group, 0, first, {}};
    }
    last->rows[last->count++] = row;
    ++first;
  }
}

void LowRank::down(OrtKernelContext* context, const Call& call) const {
  const size_t layers = outputs_.size();
  in_pieces(context, call.count_ * layers, 1, kBytesOfAPiece / (in_ * call.rank_ * of_a_number_),
            [&](size_t from, size_t to) {
              for (size_t at = from; at < to; ++at) down(call, call.together_[at / layers], at % layers);
            });
}

void LowRank::up(const Call& call, size_t from, size_t to) const {
  for (size_t at = 0; at < call.count_; ++at) up(call, call.together_[at], from, to);
}

void LowRank::ahead(const Call& call, size_t column) const {
  for (size_t layer = outputs_.size(); layer-- > 0;)
    if (column >= begins_[layer]) {
      const Factors found = factors(call, call.together_[0], layer);
      const size_t panel = (column - begins_[layer]) / kPanelOfB * kPanelOfB;
      return fetch(static_cast<const uint8_t*>(found.b) + panel * found.rank * of_a_number_);
    }
}

void LowRank::by_rows(OrtKernelContext* context, const Call& call) const {
  const size_t bytes = (outputs_.size() * in_ + width_) * call.rank_ * of_a_number_;
  in_pieces(context, call.count_, 1, kBytesOfAPiece / bytes, [&](size_t from, size_t to) {
    for (size_t at = from; at < to; ++at) {
      if (at + 1 < to) fetch(call.factors_ + call.together_[at + 1].group * call.of_a_group_);
      for (size_t layer = 0; layer < outputs_.size(); ++layer) down(call, call.together_[at], layer);
      up(call, call.together_[at], 0, width_);
    }
  });
}

void LowRank::down(const Call& call, const Call::Together& rows, size_t layer) const {
  kernel_->down(factors(call, rows, layer), sharing(call, rows, layer));
}

void LowRank::up(const Call& call, const Call::Together& rows, size_t from, size_t to) const {
  for (size_t layer = 0; layer < outputs_.size(); ++layer) {
    const size_t begin = begins_[layer];
    const size_t first = std::max(from, begin), end = std::min(to, begin + outputs_[layer]);
    if (first < end)
      kernel_->up(factors(call, rows, layer), sharing(call, rows, layer), first - begin, end - begin);
  }
}

Factors LowRank::factors(const Call& call, const Call::Together& rows, size_t layer) const {
  const uint8_t* a = call.factors_ + rows.group * call.of_a_group_;
  const size_t of_one = call.rank_ * of_a_number_;
  return {a + layer * in_ * of_one, a + (outputs_.size() * in_ + begins_[layer]) * of_one, in_, call.rank_,
          outputs_[layer], of_a_number_ == 2};
}

Sharing LowRank::sharing(const Call& call, const Call::Together& rows, size_t layer) const {
  Sharing found;
  found.count = rows.count;
  for (size_t at = 0; at < rows.count; ++at) {
    const size_t row = rows.rows[at];
    found.x[at] = call.x_ + row * in_;
    found.mask[at] = call.mask_ + row * call.rank_;
    found.ones[at] = call.ones_ == nullptr ? nullptr : call.ones_ + row * call.rank_;
    found.low[at] = call.low_ + ((rows.first + at) * outputs_.size() + layer) * call.rank_;
    found.y[at] = call.y_ + row * width_ + begins_[layer];
  }
  return found;
}

}  // namespace ptune
