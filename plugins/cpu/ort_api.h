// The part of ONNX Runtime's C interface that a library of custom operators needs.
//
// The PyPI wheel carries no header. The interface is a table of functions that is only ever
// appended to, so a place in it names a function for good; tests run every place used here.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C"
{

    struct OrtStatus;
    struct OrtValue;
    struct OrtKernelInfo;
    struct OrtKernelContext;
    struct OrtSessionOptions;
    struct OrtCustomOpDomain;
    struct OrtTensorTypeAndShapeInfo;

    struct OrtApi
    {
        void (*functions[300])();
    };

    struct OrtApiBase
    {
        OrtApi const* (*GetApi)(uint32_t version);
        char const* (*GetVersionString)();
    };

    // Fields up to version 18 of the interface. What a custom operator does not use is null.
    struct OrtCustomOp
    {
        uint32_t version;
        void* (*CreateKernel)(OrtCustomOp const*, OrtApi const*, OrtKernelInfo const*);
        char const* (*GetName)(OrtCustomOp const*);
        char const* (*GetExecutionProviderType)(OrtCustomOp const*);
        int (*GetInputType)(OrtCustomOp const*, size_t);
        size_t (*GetInputTypeCount)(OrtCustomOp const*);
        int (*GetOutputType)(OrtCustomOp const*, size_t);
        size_t (*GetOutputTypeCount)(OrtCustomOp const*);
        void (*KernelCompute)(void*, OrtKernelContext*);
        void (*KernelDestroy)(void*);
        int (*GetInputCharacteristic)(OrtCustomOp const*, size_t);
        int (*GetOutputCharacteristic)(OrtCustomOp const*, size_t);
        int (*GetInputMemoryType)(OrtCustomOp const*, size_t);
        int (*GetVariadicInputMinArity)(OrtCustomOp const*);
        int (*GetVariadicInputHomogeneity)(OrtCustomOp const*);
        int (*GetVariadicOutputMinArity)(OrtCustomOp const*);
        int (*GetVariadicOutputHomogeneity)(OrtCustomOp const*);
        OrtStatus* (*CreateKernelV2)(
            OrtCustomOp const*, OrtApi const*, OrtKernelInfo const*, void**);
        OrtStatus* (*KernelComputeV2)(void*, OrtKernelContext*);
        OrtStatus* (*InferOutputShapeFn)(OrtCustomOp const*, void*);
        int (*GetStartVersion)(OrtCustomOp const*);
        int (*GetEndVersion)(OrtCustomOp const*);
        size_t (*GetMayInplace)(int**, int**);
        void (*ReleaseMayInplace)(int*, int*);
        size_t (*GetAliasMap)(int**, int**);
        void (*ReleaseAliasMap)(int*, int*);
    };

} // extern "C"

namespace river::ort
{

constexpr uint32_t kApiVersion = 17;           // the first with KernelContext_ParallelFor
constexpr int kFail = 1, kInvalidArgument = 2; // OrtErrorCode
constexpr int kFloat = 1, kUint8 = 2, kInt8 = 3, kInt32 = 6, kInt64 = 7, kBool = 9,
              kFloat16 = 10;                // ONNXTensorElementDataType
constexpr int kRequired = 0, kOptional = 1; // of an input or output

// A function of the table by its place.
template <size_t kPlace, typename Function>
struct Entry
{
    template <typename... Arguments>
    auto operator()(OrtApi const* api, Arguments... arguments) const
    {
        return reinterpret_cast<Function>(api->functions[kPlace])(arguments...);
    }
};

constexpr Entry<0, OrtStatus* (*)(int, char const*)> create_status;
constexpr Entry<26, OrtStatus* (*)(char const*, OrtCustomOpDomain**)> create_domain;
constexpr Entry<27, OrtStatus* (*)(OrtCustomOpDomain*, OrtCustomOp const*)> add_operator;
constexpr Entry<28, OrtStatus* (*)(OrtSessionOptions*, OrtCustomOpDomain*)> add_domain;
constexpr Entry<51, OrtStatus* (*)(OrtValue*, void**)> tensor_data;
constexpr Entry<60, OrtStatus* (*)(OrtTensorTypeAndShapeInfo const*, int*)> element_type;
constexpr Entry<61, OrtStatus* (*)(OrtTensorTypeAndShapeInfo const*, size_t*)> dimension_count;
constexpr Entry<62, OrtStatus* (*)(OrtTensorTypeAndShapeInfo const*, int64_t*, size_t)> dimensions;
constexpr Entry<65, OrtStatus* (*)(OrtValue const*, OrtTensorTypeAndShapeInfo**)> type_and_shape;
constexpr Entry<85, OrtStatus* (*)(OrtKernelInfo const*, char const*, float*)> float_attribute;
constexpr Entry<86, OrtStatus* (*)(OrtKernelInfo const*, char const*, int64_t*)> int_attribute;
constexpr Entry<90, OrtStatus* (*)(OrtKernelContext const*, size_t, OrtValue const**)> input;
constexpr Entry<91, OrtStatus* (*)(OrtKernelContext*, size_t, int64_t const*, size_t, OrtValue**)>
    output;
constexpr Entry<93, void (*)(OrtStatus*)> release_status;
constexpr Entry<99, void (*)(OrtTensorTypeAndShapeInfo*)> release_shape;
constexpr Entry<230, OrtStatus* (*)(OrtKernelInfo const*, size_t*)> input_count;
constexpr Entry<232, OrtStatus* (*)(OrtKernelInfo const*, size_t, char*, size_t*)> input_name;
constexpr Entry<249, OrtStatus* (*)(OrtKernelInfo const*, size_t, int*, OrtValue const**)>
    constant_input;
constexpr Entry<274,
    OrtStatus* (*)(OrtKernelContext const*, void (*)(void*, size_t), size_t, size_t, void*)>
    parallel_for;

} // namespace river::ort
