// The operator `ptune::GatedUnit` of onnxruntime, what lies between two products of a layer in one node:
//
//     y [..., width] = QuickGelu(gate) * up = GatedUnit(gate and up [..., 2 width])          attribute alpha
//
// The arithmetic is onnxruntime's, step by step, and gives the same bits.
#include <cmath>

#include "operators.h"
#include "ort.h"
#include "product.h"
#if defined(__x86_64__)
#include "avx2.h"
#include "avx512.h"
#endif

namespace ptune {
namespace {

// The logistic function: 1/2 + v p(v^2) / q(v^2), by fused steps from the highest power.
constexpr float kEnd = 18;
constexpr float kP[] = {4.37031012579801e-11f, 1.15627324459942e-07f, 6.08574864600143e-05f,
                        8.51377133304701e-03f, 2.48287947061529e-01f};
constexpr float kQ[] = {6.10247389755681e-13f, 5.76102136993427e-09f, 6.29106785017040e-06f,
                        1.70198817374094e-03f, 1.16817656904453e-01f, 9.93151921023180e-01f};

float gated(float gate, float up, float alpha) {
  const float scaled = gate * alpha;
  const float v = scaled < -kEnd ? -kEnd : scaled > kEnd ? kEnd : scaled;
  const float square = v * v;
  float p = kP[0], q = kQ[0];
  for (size_t at = 1; at < 5; ++at) p = std::fma(p, square, kP[at]);
  for (size_t at = 1; at < 6; ++at) q = std::fma(q, square, kQ[at]);
  const float logistic = p * v / q + 0.5f;
  return gate * std::min(std::max(logistic, 0.0f), 1.0f) * up;
}

void plain_row(const float* gate, const float* up, float alpha, size_t width, float* y) {
  for (size_t k = 0; k < width; ++k) y[k] = gated(gate[k], up[k], alpha);
}

#if defined(__x86_64__)
PTUNE_AVX2 void avx2_row(const float* gate, const float* up, float alpha, size_t width, float* y) {
  const __m256 end = _mm256_set1_ps(kEnd), begin = _mm256_set1_ps(-kEnd);
  for (size_t k = 0; k < width; k += 8) {
    const size_t count = width - k;
    const __m256 x = load_some(gate + k, count);
    const __m256 scaled = _mm256_mul_ps(x, _mm256_set1_ps(alpha));
    const __m256 v = _mm256_min_ps(end, _mm256_max_ps(begin, scaled)), square = _mm256_mul_ps(v, v);
    __m256 p = _mm256_set1_ps(kP[0]), q = _mm256_set1_ps(kQ[0]);
    for (size_t at = 1; at < 5; ++at) p = _mm256_fmadd_ps(p, square, _mm256_set1_ps(kP[at]));
    for (size_t at = 1; at < 6; ++at) q = _mm256_fmadd_ps(q, square, _mm256_set1_ps(kQ[at]));
    __m256 logistic = _mm256_div_ps(_mm256_mul_ps(p, v), q);
    logistic = _mm256_add_ps(logistic, _mm256_set1_ps(0.5f));
    logistic = _mm256_min_ps(_mm256_max_ps(logistic, _mm256_setzero_ps()), _mm256_set1_ps(1));
    store_some(y + k, _mm256_mul_ps(_mm256_mul_ps(x, logistic), load_some(up + k, count)), count);
  }
}

PTUNE_AVX512 void avx512_row(const float* gate, const float* up, float alpha, size_t width, float* y) {
  const __m512 end = _mm512_set1_ps(kEnd), begin = _mm512_set1_ps(-kEnd);
  for (size_t k = 0; k < width; k += 16) {
    const __mmask16 there = first_of_16(width - k);
    const __m512 x = _mm512_maskz_loadu_ps(there, gate + k);
    const __m512 scaled = _mm512_mul_ps(x, _mm512_set1_ps(alpha));
    const __m512 v = _mm512_min_ps(end, _mm512_max_ps(begin, scaled)), square = _mm512_mul_ps(v, v);
    __m512 p = _mm512_set1_ps(kP[0]), q = _mm512_set1_ps(kQ[0]);
    for (size_t at = 1; at < 5; ++at) p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(kP[at]));
    for (size_t at = 1; at < 6; ++at) q = _mm512_fmadd_ps(q, square, _mm512_set1_ps(kQ[at]));
    __m512 logistic = _mm512_div_ps(_mm512_mul_ps(p, v), q);
    logistic = _mm512_add_ps(logistic, _mm512_set1_ps(0.5f));
    logistic = _mm512_min_ps(_mm512_max_ps(logistic, _mm512_setzero_ps()), _mm512_set1_ps(1));
    const __m512 found = _mm512_mul_ps(_mm512_mul_ps(x, logistic), _mm512_maskz_loadu_ps(there, up + k));
    _mm512_mask_storeu_ps(y + k, there, found);
  }
}
#endif

class GatedUnit {
 public:
  explicit GatedUnit(const OrtKernelInfo* info) {
    check(api->KernelInfoGetAttribute_float(info, "alpha", &alpha_));
#if defined(__x86_64__)
    const Instructions with = best_kernel().with;
    if (with != Instructions::kPlain) row_ = with == Instructions::kAvx512 ? avx512_row : avx2_row;
#endif
  }

  void compute(OrtKernelContext* context) const {
    const OrtValue* input = nullptr;
    check(api->KernelContext_GetInput(context, 0, &input));
    std::vector<int64_t> shape = shape_of(input);
    if (shape.empty()) refuse("a number where rows are expected");
    const size_t width = static_cast<size_t>(shape.back() /= 2);
    size_t rows = 1;
    for (size_t at = 0; at + 1 < shape.size(); ++at) rows *= static_cast<size_t>(shape[at]);
    OrtValue* output = nullptr;
    check(api->KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &output));
    if (rows * width == 0) return;
    const float* both = data_of<float>(input);
    float* y = const_cast<float*>(data_of<float>(output));
    in_pieces(context, rows, 1, kNumbersOfAPiece / width, [&](size_t from, size_t to) {
      for (size_t row = from; row < to; ++row) {
        const float* gate = both + 2 * row * width;
        row_(gate, gate + width, alpha_, width, y + row * width);
      }
    });
  }

 private:
  static constexpr size_t kNumbersOfAPiece = 1 << 14;

  float alpha_ = 0;
  void (*row_)(const float* gate, const float* up, float alpha, size_t width, float* y) = plain_row;
};

}  // namespace

OrtCustomOp gated_unit() {
  OrtCustomOp op = operator_of_processor();
  op.GetName = [](const OrtCustomOp*) { return "GatedUnit"; };
  op.GetInputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  computed_by<GatedUnit>(op);
  return op;
}

}  // namespace ptune
