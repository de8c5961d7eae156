// The operator `ptune::RoundedProduct` of onnxruntime: a linear layer in int8 with its rounding, in one node.
//
//     y [..., out] = RoundedProduct(u [..., in], weights int8 [in, out], scale [out], step [], fine [],
//     inverse [..., 1] or none)
//
// All but u and inverse are constants. Weights are packed when the session opens; sessions whose attribute
// `shared_as` is the same share them. Threads are onnxruntime's own.
#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "product.h"

namespace {

using namespace ptune;

const OrtApi* api = nullptr;

struct Failed {  // thrown with what onnxruntime or we have to say
  OrtStatus* status;
};

void check(OrtStatus* status) {
  if (status != nullptr) throw Failed{status};
}

[[noreturn]] void refuse(const std::string& why) {
  throw Failed{api->CreateStatus(ORT_INVALID_ARGUMENT, ("RoundedProduct: " + why).c_str())};
}

// Memory that begins at a page of 2 MiB, where the system has such pages: weights are read from end to end.
class Pages {
 public:
  explicit Pages(size_t size) : size_((size + kPage - 1) / kPage * kPage) {
    data_ = static_cast<uint8_t*>(std::aligned_alloc(kPage, size_));
    if (data_ == nullptr) throw std::bad_alloc();
#ifdef __linux__
    madvise(data_, size_, MADV_HUGEPAGE);
#endif
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  ~Pages() { std::free(data_); }
  uint8_t* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  static constexpr size_t kPage = size_t{1} << 21;
  size_t size_;
  uint8_t* data_;
};

// Packed weights. Those of sessions that open together lie in the same pages, which go with the last of them.
struct Packed {
  std::shared_ptr<const Pages> pages;
  const uint8_t* bytes;
  size_t in, out;
};

class Shelf {
 public:
  // The weights that are shared under this name, packed now if no open session has them; of no name: this
  // session's own.
  std::shared_ptr<const Packed> get(const std::string& name, const int8_t* weights, size_t in, size_t out) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!name.empty())
      if (auto there = known_[name].lock()) {
        if (there->in != in || there->out != out) refuse("other weights are shared as " + name);
        return there;
      }
    uint8_t* room = nullptr;
    std::shared_ptr<const Pages> pages = place(packed_bytes(in, out), room);
    pack(weights, in, out, room);
    auto fresh = std::make_shared<const Packed>(Packed{std::move(pages), room, in, out});
    if (!name.empty()) known_[name] = fresh;
    return fresh;
  }

 private:
  static constexpr size_t kTogether = size_t{32} << 20;

  std::shared_ptr<const Pages> place(size_t size, uint8_t*& room) {
    auto pages = open_.lock();
    if (pages == nullptr || pages->size() - used_ < size) {
      pages = std::make_shared<const Pages>(std::max(size, kTogether));
      open_ = pages;
      used_ = 0;
    }
    room = pages->data() + used_;
    used_ += size;
    return pages;
  }

  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<const Packed>> known_;
  std::weak_ptr<const Pages> open_;
  size_t used_ = 0;
};

Shelf& shelf() {
  static Shelf* const shelf = new Shelf;  // never deleted: sessions may outlive this library's statics
  return *shelf;
}

struct Constant {
  const void* data;
  std::vector<int64_t> shape;
  size_t count() const {
    size_t all = 1;
    for (const int64_t size : shape) all *= static_cast<size_t>(size);
    return all;
  }
};

std::vector<int64_t> shape_of(const OrtValue* value) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  check(api->GetTensorTypeAndShape(value, &info));
  size_t rank = 0;
  OrtStatus* status = api->GetDimensionsCount(info, &rank);
  std::vector<int64_t> shape(rank);
  if (status == nullptr) status = api->GetDimensions(info, shape.data(), rank);
  api->ReleaseTensorTypeAndShapeInfo(info);
  check(status);
  return shape;
}

template <typename T>
const T* data_of(const OrtValue* value) {
  void* data = nullptr;
  check(api->GetTensorMutableData(const_cast<OrtValue*>(value), &data));
  return static_cast<const T*>(data);
}

Constant constant(const OrtKernelInfo* info, size_t at, const char* name) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api->KernelInfoGetConstantInput_tensor(info, at, &is_constant, &value));
  if (!is_constant || value == nullptr) refuse(std::string(name) + " is no constant");
  return {data_of<void>(value), shape_of(value)};
}

float scalar(const OrtKernelInfo* info, size_t at, const char* name) {
  const Constant found = constant(info, at, name);
  if (found.count() != 1) refuse(std::string(name) + " is no scalar");
  return *static_cast<const float*>(found.data);
}

std::string text(const OrtKernelInfo* info, const char* name) {
  size_t size = 0;
  if (OrtStatus* status = api->KernelInfoGetAttribute_string(info, name, nullptr, &size)) {
    api->ReleaseStatus(status);
    return {};
  }
  std::string found(size, '\0');
  check(api->KernelInfoGetAttribute_string(info, name, found.data(), &size));
  found.resize(size == 0 ? 0 : size - 1);  // its end is a zero
  return found;
}

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
    packed_ = shelf().get(text(info, "shared_as"), static_cast<const int8_t*>(weights.data), weights_.in,
                          weights_.out);
    weights_.bytes = packed_->bytes;
  }

  void compute(OrtKernelContext* context) const {
    const OrtValue *u = nullptr, *inverse = nullptr;
    check(api->KernelContext_GetInput(context, 0, &u));
    check(api->KernelContext_GetInput(context, 5, &inverse));
    std::vector<int64_t> shape = shape_of(u);
    if (shape.empty() || static_cast<size_t>(shape.back()) != weights_.in)
      refuse("rows are not as long as weights are deep");
    Run run{this, context};
    run.rows.count = 1;
    for (size_t at = 0; at + 1 < shape.size(); ++at) run.rows.count *= static_cast<size_t>(shape[at]);
    shape.back() = static_cast<int64_t>(weights_.out);
    OrtValue* y = nullptr;
    check(api->KernelContext_GetOutput(context, 0, shape.data(), shape.size(), &y));
    if (run.rows.count == 0) return;
    run.x = data_of<float>(u);
    run.inverse = inverse == nullptr ? nullptr : data_of<float>(inverse);
    run.y = const_cast<float*>(data_of<float>(y));
    const size_t blocks = (run.rows.count + kernel_.rows_together - 1) / kernel_.rows_together;
    const size_t bytes = blocks * kernel_.rows_together * 2 * weights_.depth;
    uint8_t* room = scratch(bytes + run.rows.count * 2 * sizeof(int32_t));
    run.rows.bytes = reinterpret_cast<int8_t*>(room);
    run.rows.excess = reinterpret_cast<int32_t*>(room + bytes);
    run.pieces(run.rows.count, kRowsTogether, kNumbersOfAPiece / weights_.in, [](void* of, size_t at) {
      const Run& run = *static_cast<const Run*>(of);
      run.of->kernel_.round(run.of->weights_, run.of->rounding_, run.x, run.rows, run.from(at), run.to(at));
    });
    const size_t products_of_a_panel = weights_.depth * kColumns * (run.rows.count + kRowsOfAWeight);
    run.pieces(weights_.panels, kPanelsTogether, kProductsOfAPiece / products_of_a_panel,
               [](void* of, size_t at) {
                 const Run& run = *static_cast<const Run*>(of);
                 run.of->kernel_.product(run.of->weights_, run.rows, run.of->multiplier_.data(), run.inverse,
                                         run.y, run.from(at), run.to(at));
               });
  }

 private:
  // A piece is what one thread takes; smaller ones cost more than they bring. What belongs together lies in
  // one piece.
  static constexpr size_t kRowsTogether = 16, kPanelsTogether = 3;
  static constexpr size_t kNumbersOfAPiece = 1 << 15, kProductsOfAPiece = 1 << 20;
  static constexpr size_t kRowsOfAWeight =
      7;  // reading a weight from memory takes as long as so many products

  struct Run {
    const RoundedProduct* of;
    OrtKernelContext* context;
    Rows rows{};
    const float *x = nullptr, *inverse = nullptr;
    float* y = nullptr;
    size_t all = 0, size = 0;  // what is divided into pieces now, and how much of it is one

    size_t from(size_t piece) const { return piece * size; }
    size_t to(size_t piece) const { return std::min(all, (piece + 1) * size); }

    void pieces(size_t count, size_t together, size_t least, void (*work)(void*, size_t)) {
      all = count;
      size = (std::max<size_t>(least, 1) + together - 1) / together * together;
      const size_t number = (all + size - 1) / size;
      if (number == 1)
        work(this, 0);
      else
        check(api->KernelContext_ParallelFor(context, work, number, 0, this));
    }
  };

  static uint8_t* scratch(size_t size) {  // of this thread; it only grows
    static thread_local std::unique_ptr<uint8_t, decltype(&std::free)> room(nullptr, &std::free);
    static thread_local size_t there = 0;
    if (there < size) {
      there = (size + 4095) / 4096 * 4096;
      room.reset(static_cast<uint8_t*>(std::aligned_alloc(4096, there)));
      if (room == nullptr) throw std::bad_alloc();
    }
    return room.get();
  }

  const Kernel& kernel_;
  Weights weights_;
  Rounding rounding_{};
  std::vector<float> multiplier_;
  std::shared_ptr<const Packed> packed_;
};

template <typename Work>
OrtStatus* told(Work work) {
  try {
    work();
    return nullptr;
  } catch (const Failed& failed) {
    return failed.status;
  } catch (const std::exception& error) {
    return api->CreateStatus(ORT_FAIL, error.what());
  }
}

constexpr size_t kInputs = 6;

OrtCustomOp described() {
  OrtCustomOp op{};
  op.version = ORT_API_VERSION;
  op.GetName = [](const OrtCustomOp*) { return "RoundedProduct"; };
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op.GetInputTypeCount = [](const OrtCustomOp*) { return kInputs; };
  op.GetInputType = [](const OrtCustomOp*, size_t at) {
    return at == 1 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t at) {
    return at + 1 == kInputs ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
  };
  op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
  op.GetOutputTypeCount = [](const OrtCustomOp*) -> size_t { return 1; };
  op.GetOutputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
  op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
  op.GetVariadicInputMinArity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicInputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputMinArity = [](const OrtCustomOp*) { return 0; };
  op.GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 0; };
  op.GetStartVersion = [](const OrtCustomOp*) { return 1; };
  op.GetEndVersion = [](const OrtCustomOp*) { return 1; };
  op.CreateKernelV2 = [](const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info,
                         void** kernel) -> OrtStatusPtr {
    return told([&] { *kernel = new RoundedProduct(info); });
  };
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) -> OrtStatusPtr {
    return told([&] { static_cast<const RoundedProduct*>(kernel)->compute(context); });
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<RoundedProduct*>(kernel); };
  return op;
}

}  // namespace

extern "C" {

__attribute__((visibility("default"))) OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options,
                                                                                 const OrtApiBase* base) {
  api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr)
    return nullptr;  // an onnxruntime that is older; it says itself that it does not know the operator
  static const OrtCustomOp op = described();
  static OrtCustomOpDomain* domain = nullptr;
  if (domain == nullptr) {
    if (OrtStatus* status = api->CreateCustomOpDomain("ptune", &domain)) return status;
    if (OrtStatus* status = api->CustomOpDomain_Add(domain, &op)) return status;
  }
  return api->AddCustomOpDomain(options, domain);
}

// The kernel that this processor gets.
__attribute__((visibility("default"))) const char* ptune_kernel() { return best_kernel().name; }

// Chooses a kernel for sessions that open afterwards, for tests; 0 where this processor has none of this
// name.
__attribute__((visibility("default"))) int ptune_use_kernel(const char* name) { return use_kernel(name); }
}
