// What the operators share of onnxruntime's C interface.
#pragma once

#include <onnxruntime_c_api.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

namespace ptune {

extern const OrtApi* api;  // set when the library is registered

struct Failed {  // thrown with what onnxruntime or we have to say
  OrtStatus* status;
};

inline void check(OrtStatus* status) {
  if (status != nullptr) throw Failed{status};
}

[[noreturn]] inline void refuse(const std::string& why) {
  throw Failed{api->CreateStatus(ORT_INVALID_ARGUMENT, why.c_str())};
}

// What onnxruntime is told of some work: nothing, or why it failed.
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

struct Constant {
  const void* data;
  std::vector<int64_t> shape;
  size_t count() const {
    size_t all = 1;
    for (const int64_t size : shape) all *= static_cast<size_t>(size);
    return all;
  }
};

inline std::vector<int64_t> shape_of(const OrtValue* value) {
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

inline Constant constant(const OrtKernelInfo* info, size_t at, const char* name) {
  int is_constant = 0;
  const OrtValue* value = nullptr;
  check(api->KernelInfoGetConstantInput_tensor(info, at, &is_constant, &value));
  if (!is_constant || value == nullptr) refuse(std::string(name) + " is no constant");
  return {data_of<void>(value), shape_of(value)};
}

inline float scalar(const OrtKernelInfo* info, size_t at, const char* name) {
  const Constant found = constant(info, at, name);
  if (found.count() != 1) refuse(std::string(name) + " is no scalar");
  return *static_cast<const float*>(found.data);
}

inline std::string text(const OrtKernelInfo* info, const char* name) {
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

inline size_t number(const OrtKernelInfo* info, const char* name) {
  int64_t found = 0;
  check(api->KernelInfoGetAttribute_int64(info, name, &found));
  return static_cast<size_t>(found);
}

// Memory of this thread for one call; it only grows. Work that a call hands out has memory of its own:
// another Use.
template <int Use = 0>
uint8_t* scratch(size_t size) {
  static thread_local std::unique_ptr<uint8_t, decltype(&std::free)> room(nullptr, &std::free);
  static thread_local size_t there = 0;
  if (there < size) {
    there = (size + 4095) / 4096 * 4096;
    room.reset(static_cast<uint8_t*>(std::aligned_alloc(4096, there)));
    if (room == nullptr) throw std::bad_alloc();
  }
  return room.get();
}

// Some work on `all` things, in pieces for onnxruntime's threads: work(from, to). A piece has `least` of them
// or more; smaller ones cost more than they bring. What belongs together lies in one piece.
template <typename Work>
void in_pieces(OrtKernelContext* context, size_t all, size_t together, size_t least, const Work& work) {
  struct Pieces {
    const Work& work;
    size_t all, size;
  };
  const size_t size = (std::max<size_t>(least, 1) + together - 1) / together * together;
  const Pieces pieces{work, all, size};
  const auto piece = [](void* of, size_t at) {
    const Pieces& pieces = *static_cast<const Pieces*>(of);
    pieces.work(at * pieces.size, std::min(pieces.all, (at + 1) * pieces.size));
  };
  const size_t number = (all + size - 1) / size;
  if (number == 1)
    work(0, all);
  else
    check(api->KernelContext_ParallelFor(context, piece, number, 0, const_cast<Pieces*>(&pieces)));
}

// What every operator of the library tells onnxruntime alike; names, types and kernels are its own.
inline OrtCustomOp operator_of_processor() {
  OrtCustomOp op{};
  op.version = ORT_API_VERSION;
  op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return "CPUExecutionProvider"; };
  op.GetInputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
  op.GetInputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
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
  return op;
}

template <typename Operator>
void computed_by(OrtCustomOp& op) {
  op.CreateKernelV2 = [](const OrtCustomOp*, const OrtApi*, const OrtKernelInfo* info,
                         void** kernel) -> OrtStatusPtr {
    return told([&] { *kernel = new Operator(info); });
  };
  op.KernelComputeV2 = [](void* kernel, OrtKernelContext* context) -> OrtStatusPtr {
    return told([&] { static_cast<const Operator*>(kernel)->compute(context); });
  };
  op.KernelDestroy = [](void* kernel) { delete static_cast<Operator*>(kernel); };
}

}  // namespace ptune
