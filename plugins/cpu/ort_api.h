// The part of ONNX Runtime's C interface that a library of custom operators needs.
//
// The PyPI wheel carries no header. The interface is a table of functions that is only ever
// appended to, so a place in it names a function for good; tests run every place used here.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtStatus;
struct OrtValue;
struct OrtKernelInfo;
struct OrtKernelContext;
struct OrtSessionOptions;
struct OrtCustomOpDomain;
struct OrtTensorTypeAndShapeInfo;

struct OrtApi {
  void (*functions[300])();
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

// Fields up to version 18 of the interface. What a custom operator does not use is null.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  int (*GetInputType)(const OrtCustomOp*, size_t);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  int (*GetOutputType)(const OrtCustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void*, OrtKernelContext*);
  void (*KernelDestroy)(void*);
  int (*GetInputCharacteristic)(const OrtCustomOp*, size_t);
  int (*GetOutputCharacteristic)(const OrtCustomOp*, size_t);
  int (*GetInputMemoryType)(const OrtCustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void**);
  OrtStatus* (*KernelComputeV2)(void*, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, void*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
  size_t (*GetMayInplace)(int**, int**);
  void (*ReleaseMayInplace)(int*, int*);
  size_t (*GetAliasMap)(int**, int**);
  void (*ReleaseAliasMap)(int*, int*);
};

}  // extern "C"

namespace river::ort {

constexpr uint32_t kApiVersion = 17;  // the first with KernelContext_ParallelFor
constexpr int kFail = 1, kInvalidArgument = 2;               // OrtErrorCode
constexpr int kFloat = 1, kUint8 = 2, kInt32 = 6, kBool = 9,
              kFloat16 = 10;  // ONNXTensorElementDataType
constexpr int kRequired = 0, kOptional = 1;                  // of an input or output

// A function of the table by its place.
template <size_t kPlace, typename Function>
struct Entry {
  template <typename... Arguments>
  auto operator()(const OrtApi* api, Arguments... arguments) const {
    return reinterpret_cast<Function>(api->functions[kPlace])(arguments...);
  }
};

constexpr Entry<0, OrtStatus* (*)(int, const char*)> create_status;
constexpr Entry<26, OrtStatus* (*)(const char*, OrtCustomOpDomain**)> create_domain;
constexpr Entry<27, OrtStatus* (*)(OrtCustomOpDomain*, const OrtCustomOp*)> add_operator;
constexpr Entry<28, OrtStatus* (*)(OrtSessionOptions*, OrtCustomOpDomain*)> add_domain;
constexpr Entry<51, OrtStatus* (*)(OrtValue*, void**)> tensor_data;
constexpr Entry<61, OrtStatus* (*)(const OrtTensorTypeAndShapeInfo*, size_t*)> dimension_count;
constexpr Entry<62, OrtStatus* (*)(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t)> dimensions;
constexpr Entry<65, OrtStatus* (*)(const OrtValue*, OrtTensorTypeAndShapeInfo**)> type_and_shape;
constexpr Entry<85, OrtStatus* (*)(const OrtKernelInfo*, const char*, float*)> float_attribute;
constexpr Entry<86, OrtStatus* (*)(const OrtKernelInfo*, const char*, int64_t*)> int_attribute;
constexpr Entry<90, OrtStatus* (*)(const OrtKernelContext*, size_t, const OrtValue**)> input;
constexpr Entry<91, OrtStatus* (*)(OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**)>
    output;
constexpr Entry<99, void (*)(OrtTensorTypeAndShapeInfo*)> release_shape;
constexpr Entry<249, OrtStatus* (*)(const OrtKernelInfo*, size_t, int*, const OrtValue**)>
    constant_input;
constexpr Entry<274, OrtStatus* (*)(const OrtKernelContext*, void (*)(void*, size_t), size_t,
                                    size_t, void*)>
    parallel_for;

}  // namespace river::ort
