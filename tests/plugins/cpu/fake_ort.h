// As much of ONNX Runtime's C interface as the operators call, in memory that a sanitizer watches:
// every tensor is an allocation of its own, of exactly its size.
#pragma once

#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ort_api.h"

struct OrtStatus
{
    int code;
    std::string message;
};

struct OrtTensorTypeAndShapeInfo
{
    int type;
    std::vector<int64_t> shape;
};

struct OrtValue
{
    int type = 0;
    std::vector<int64_t> shape;
    std::unique_ptr<char[]> data;

    static size_t size_of(int type)
    {
        switch (type)
        {
        case 1: // float
        case 6: // int32
            return 4;
        case 10: // float16
            return 2;
        case 7: // int64
            return 8;
        default: // uint8, bool
            return 1;
        }
    }

    size_t count() const
    {
        size_t count = 1;
        for (int64_t const size : shape)
            count *= static_cast<size_t>(size);
        return count;
    }

    void allocate()
    {
        size_t const bytes = count() * size_of(type);
        data.reset(new char[bytes]);
        std::memset(data.get(), 0, bytes);
    }

    template <typename T>
    T* values()
    {
        return reinterpret_cast<T*>(data.get());
    }
};

using Value = std::shared_ptr<OrtValue>; // null: absent

struct OrtKernelInfo
{
    std::map<std::string, int64_t> integers;
    std::map<std::string, float> reals;
    std::vector<Value> constants; // by input; null: absent or no constant
    std::vector<bool> named;      // by input: the node has one
};

struct OrtKernelContext
{
    std::vector<Value> inputs;
    std::vector<Value> outputs; // made when asked for, unless one is bound
    std::vector<bool> taken;    // by output: something reads it
};

struct OrtCustomOpDomain
{
    std::vector<OrtCustomOp const*> operators;
};

struct OrtSessionOptions
{
    OrtCustomOpDomain* domain = nullptr;
};

namespace fake
{

inline OrtStatus* fail(std::string message)
{
    return new OrtStatus{1, std::move(message)};
}

template <typename Function>
void set(OrtApi& api, size_t place, Function function)
{
    api.functions[place] = reinterpret_cast<void (*)()>(+function);
}

// The table, with null where the operators must not call.
inline OrtApi const& api()
{
    static OrtApi table = {};
    if (table.functions[0] != nullptr)
        return table;
    set(table, 0, [](int code, char const* text) { return new OrtStatus{code, text}; });
    set(table, 26, [](char const*, OrtCustomOpDomain** out) -> OrtStatus*
    {
        *out = new OrtCustomOpDomain;
        return nullptr;
    });
    set(table, 27, [](OrtCustomOpDomain* domain, OrtCustomOp const* op) -> OrtStatus*
    {
        domain->operators.push_back(op);
        return nullptr;
    });
    set(table, 28, [](OrtSessionOptions* options, OrtCustomOpDomain* domain) -> OrtStatus*
    {
        options->domain = domain;
        return nullptr;
    });
    set(table, 51, [](OrtValue* value, void** out) -> OrtStatus*
    {
        *out = value->data.get();
        return nullptr;
    });
    set(table, 60, [](OrtTensorTypeAndShapeInfo const* info, int* out) -> OrtStatus*
    {
        *out = info->type;
        return nullptr;
    });
    set(table, 61, [](OrtTensorTypeAndShapeInfo const* info, size_t* out) -> OrtStatus*
    {
        *out = info->shape.size();
        return nullptr;
    });
    set(table, 62,
        [](OrtTensorTypeAndShapeInfo const* info, int64_t* out, size_t count) -> OrtStatus*
    {
        for (size_t i = 0; i < count; ++i)
            out[i] = info->shape.at(i);
        return nullptr;
    });
    set(table, 65, [](OrtValue const* value, OrtTensorTypeAndShapeInfo** out) -> OrtStatus*
    {
        *out = new OrtTensorTypeAndShapeInfo{value->type, value->shape};
        return nullptr;
    });
    set(table, 85, [](OrtKernelInfo const* info, char const* name, float* out) -> OrtStatus*
    {
        auto const found = info->reals.find(name);
        if (found == info->reals.end())
            return fail(std::string("no attribute ") + name);
        *out = found->second;
        return nullptr;
    });
    set(table, 86, [](OrtKernelInfo const* info, char const* name, int64_t* out) -> OrtStatus*
    {
        auto const found = info->integers.find(name);
        if (found == info->integers.end())
            return fail(std::string("no attribute ") + name);
        *out = found->second;
        return nullptr;
    });
    set(table, 90,
        [](OrtKernelContext const* context, size_t index, OrtValue const** out) -> OrtStatus*
    {
        *out = index < context->inputs.size() ? context->inputs[index].get() : nullptr;
        return nullptr;
    });
    set(table, 91,
        [](OrtKernelContext* context, size_t index, int64_t const* shape, size_t rank,
            OrtValue** out) -> OrtStatus*
    {
        *out = nullptr;
        if (index >= context->taken.size() || !context->taken[index])
            return nullptr;
        std::vector<int64_t> const wanted(shape, shape + rank);
        Value& value = context->outputs[index];
        if (value == nullptr)
        {
            value = std::make_shared<OrtValue>();
            value->type = index == 1 ? 6 : 1; // exit_layer is the only one of integers
            value->shape = wanted;
            value->allocate();
        }
        if (value->shape != wanted)
            return fail("a bound output has another shape");
        *out = value.get();
        return nullptr;
    });
    set(table, 93, [](OrtStatus* status) { delete status; });
    set(table, 99, [](OrtTensorTypeAndShapeInfo* info) { delete info; });
    set(table, 230, [](OrtKernelInfo const* info, size_t* out) -> OrtStatus*
    {
        *out = info->named.size();
        return nullptr;
    });
    set(table, 232, [](OrtKernelInfo const* info, size_t index, char*, size_t* size) -> OrtStatus*
    {
        *size = info->named.at(index) ? 5 : 1;
        return nullptr;
    });
    set(table, 249,
        [](OrtKernelInfo const* info, size_t index, int* is_constant,
            OrtValue const** out) -> OrtStatus*
    {
        *out = index < info->constants.size() ? info->constants[index].get() : nullptr;
        *is_constant = *out != nullptr;
        return nullptr;
    });
    set(table, 274,
        [](OrtKernelContext const*, void (*work)(void*, size_t), size_t count, size_t,
            void* argument) -> OrtStatus*
    {
        for (size_t i = 0; i < count; ++i)
            work(argument, i);
        return nullptr;
    });
    return table;
}

// An operator of the library, made and run as ONNX Runtime does; the status' text, or "".
inline std::string text_of(OrtStatus* status)
{
    if (status == nullptr)
        return "";
    std::unique_ptr<OrtStatus> const owned(status);
    return owned->message.empty() ? "a status without a text" : owned->message;
}

} // namespace fake
