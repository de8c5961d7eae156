// What adapters add to the rows of a layer's output, or of several that read the same rows and whose outputs
// lie side by side. An operator that computes these outputs takes four more inputs:
//
//     x [..., in], mask [groups, tokens, R], ones as mask or none, factors [G, numbers * R]
//     attributes lora_in, lora_outputs (of each layer), lora_begin, lora_numbers, lora_halves
//
// y += ((x A) * mask + ones) B. A line of factors is one adapter's, in float32 or (halves) half precision.
// From begin * R on lie A [in, R] of each layer, then B [R, outputs] of each in panels. G is 1 or groups:
// rows of group g meet line g. A row whose mask and ones are zero stays as it is, bit by bit.
#pragma once

#include <vector>

#include "low_rank.h"
#include "ort.h"

namespace ptune {

class LowRank {
 public:
  // One run of an operator.
  class Call {
   public:
    bool any() const { return count_ != 0; }
    bool few() const { return count_ < kFew; }

   private:
    friend class LowRank;
    static constexpr size_t kFew = 4;

    struct Together {  // rows that share factors
      size_t group, count, first;  // first: of all rows that have an adapter
      size_t rows[kRowsOfFactors];
    };

    size_t rank_ = 0, count_ = 0;  // count: of together
    const float *x_ = nullptr, *mask_ = nullptr, *ones_ = nullptr;
    float *y_ = nullptr, *low_ = nullptr;  // low: [rows that have an adapter, layers, rank]
    Together* together_ = nullptr;
    const uint8_t* factors_ = nullptr;  // A of the first layer, of the first group
    size_t of_a_group_ = 0;             // bytes from a group's factors to the next one's
  };

  // first: the operator's input x.
  LowRank(const OrtKernelInfo* info, size_t first);

  size_t width() const { return width_; }  // of a row of y

  // Reads the inputs; rows: of y.
  Call begin(OrtKernelContext* context, size_t rows, float* y) const;

  // Few rows: first x A, then columns [from, to) of y, in pieces of the operator's own.
  void down(OrtKernelContext* context, const Call& call) const;
  void ahead(const Call& call, size_t column) const;  // fetches the first factors of columns from there on
  void up(const Call& call, size_t from, size_t to) const;

  // Any number of rows: all of it, in pieces of rows, whose factors are read from end to end.
  void by_rows(OrtKernelContext* context, const Call& call) const;

  static constexpr size_t kInputs = 4;

 private:
  void gather(Call& call, size_t rows, size_t tokens) const;
  bool has_adapter(const Call& call, size_t row) const;
  void down(const Call& call, const Call::Together& rows, size_t layer) const;
  void up(const Call& call, const Call::Together& rows, size_t from, size_t to) const;
  Factors factors(const Call& call, const Call::Together& rows, size_t layer) const;
  Sharing sharing(const Call& call, const Call::Together& rows, size_t layer) const;

  size_t first_;  // input
  size_t in_;
  std::vector<size_t> outputs_, begins_;  // of each layer; begins: column of y
  size_t width_ = 0;
  size_t begin_, numbers_;  // of a line of factors, for each rank
  size_t of_a_number_;      // bytes
  const LowRankKernel* kernel_ = &kPlainLowRank;
};

}  // namespace ptune
