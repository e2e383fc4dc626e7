// What a node states when the session is made, and what it is given on every run: read through ONNX
// Runtime's C interface, and refused where it is not what the operator says it must be.
#pragma once

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <thread>

#include "block.h"
#include "ort_api.h"

namespace river::ort
{

// Of a size that a node states. Products of two do not overflow, and no model comes near it.
constexpr int64_t kMostSize = int64_t{1} << 30;

// An ONNX Runtime call failed: its own status passes through.
struct Failure
{
    OrtStatus* status;
};

inline void check(OrtStatus* status)
{
    if (status != nullptr)
        throw Failure{status};
}

// Runs `work`, which may throw, for a caller that takes a status.
template <typename Work>
OrtStatus* guarded(OrtApi const* api, Work&& work)
{
    try
    {
        work();
        return nullptr;
    }
    catch (Failure const& failure)
    {
        return failure.status;
    }
    catch (std::invalid_argument const& error)
    {
        return create_status(api, kInvalidArgument, error.what());
    }
    catch (std::exception const& error)
    {
        return create_status(api, kFail, error.what());
    }
}

// The type codes of ONNX.
template <typename T>
constexpr int kTypeOf = 0;
template <>
inline constexpr int kTypeOf<float> = kFloat;
template <>
inline constexpr int kTypeOf<uint16_t> = kFloat16;
template <>
inline constexpr int kTypeOf<uint8_t> = kUint8;
template <>
inline constexpr int kTypeOf<int8_t> = kInt8;
template <>
inline constexpr int kTypeOf<int32_t> = kInt32;
template <>
inline constexpr int kTypeOf<int64_t> = kInt64;
template <>
inline constexpr int kTypeOf<bool> = kBool;

// The type and shape of a tensor. A rank beyond kMostRank is kept as a number only.
struct Shape
{
    static constexpr size_t kMostRank = 8;
    int type = 0;
    size_t rank = 0;
    int64_t sizes[kMostRank] = {};

    static Shape of(OrtApi const* api, OrtValue const* value)
    {
        OrtTensorTypeAndShapeInfo* info = nullptr;
        check(type_and_shape(api, value, &info));
        Shape shape;
        OrtStatus* status = element_type(api, info, &shape.type);
        if (status == nullptr)
            status = dimension_count(api, info, &shape.rank);
        if (status == nullptr && shape.rank <= kMostRank)
            status = dimensions(api, info, shape.sizes, shape.rank);
        release_shape(api, info);
        check(status);
        return shape;
    }

    bool is(std::initializer_list<int64_t> wanted) const
    {
        return rank == wanted.size() && std::equal(wanted.begin(), wanted.end(), sizes);
    }

    static std::string text(int64_t const* sizes, size_t rank)
    {
        if (rank > kMostRank)
            return std::to_string(rank) + " dimensions";
        std::string text = "[";
        for (size_t i = 0; i < rank; ++i)
            text += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
        return text + "]";
    }

    // `wanted` is "" for a tensor of the right shape.
    void require(
        std::string const& name, int wanted_type, std::initializer_list<int64_t> wanted) const
    {
        if (type != wanted_type)
        {
            throw std::invalid_argument(name + " has element type " + std::to_string(type)
                + ", but must have " + std::to_string(wanted_type));
        }
        if (!is(wanted))
        {
            throw std::invalid_argument(name + " is " + text(sizes, rank) + ", but must be "
                + text(wanted.begin(), wanted.size()));
        }
    }
};

// A linear's parts among the inputs of a node: weight (float32), weight (float16), codes, scales
// and zero points of the backbone; codes, scales, zero points and pre_scale of the river; bias.
constexpr size_t kLinearParts = 10;
constexpr char const* kPartNames[kLinearParts] = {"weight", "weight_float16", "backbone_qweight",
    "backbone_scales", "backbone_zero_points", "qweight", "scales", "zero_points", "pre_scale",
    "bias"};

inline int type_of_part(size_t part)
{
    if (part == 1)
        return kFloat16;
    return part == 2 || part == 4 || part == 5 || part == 7 ? kUint8 : kFloat;
}

// What a node states, read when the session is made.
class Node
{
public:
    Node(OrtApi const* api, OrtKernelInfo const* info)
        : api_(api)
        , info_(info)
    {
        check(input_count(api_, info_, &inputs_));
    }

    // An input left out has an empty name.
    bool given(size_t index) const
    {
        if (index >= inputs_)
            return false;
        size_t size = 0;
        check(input_name(api_, info_, index, nullptr, &size));
        return size > 1;
    }

    int64_t integer(char const* name, int64_t least, int64_t most) const
    {
        int64_t value = 0;
        check(int_attribute(api_, info_, name, &value));
        if (value < least || value > most)
        {
            throw std::invalid_argument(std::string(name) + " is " + std::to_string(value)
                + ", but must be in " + std::to_string(least) + ".." + std::to_string(most));
        }
        return value;
    }

    // Of an attribute that came later than the operator: 0 where the node has none.
    int64_t integer_or_0(char const* name, int64_t most) const
    {
        int64_t value = 0;
        OrtStatus* const status = int_attribute(api_, info_, name, &value);
        if (status == nullptr)
            return integer(name, 0, most);
        release_status(api_, status);
        return 0;
    }

    size_t size(char const* name, int64_t least = 1, int64_t most = kMostSize) const
    {
        return static_cast<size_t>(integer(name, least, most));
    }

    size_t group_size() const
    {
        size_t const group = size("group_size", 32, kMaxGroup);
        if (group % 32 != 0)
            throw std::invalid_argument("group_size must be 32, 64, 96 or 128");
        return group;
    }

    float real(char const* name) const
    {
        float value = 0.0f;
        check(float_attribute(api_, info_, name, &value));
        if (!std::isfinite(value))
            throw std::invalid_argument(std::string(name) + " is not finite");
        return value;
    }

    // A constant input of this shape, or null where the node has none.
    template <typename T>
    T const* weight(
        size_t index, std::string const& name, std::initializer_list<size_t> wanted) const
    {
        int is_constant = 0;
        OrtValue const* value = nullptr;
        if (index < inputs_) // engines built before an input was added end earlier
            check(constant_input(api_, info_, index, &is_constant, &value));
        if (!is_constant || value == nullptr)
        {
            if (given(index))
                throw std::invalid_argument(name + " is no constant");
            return nullptr;
        }
        int64_t sizes[Shape::kMostRank] = {};
        std::copy(wanted.begin(), wanted.end(), sizes);
        Shape const shape = Shape::of(api_, value);
        bool const same =
            shape.rank == wanted.size() && std::equal(sizes, sizes + shape.rank, shape.sizes);
        if (shape.type != kTypeOf<T> || !same)
        {
            throw std::invalid_argument(name + " is " + Shape::text(shape.sizes, shape.rank)
                + " of element type " + std::to_string(shape.type) + ", but must be "
                + Shape::text(sizes, wanted.size()) + " of " + std::to_string(kTypeOf<T>));
        }
        void* data = nullptr;
        check(tensor_data(api_, const_cast<OrtValue*>(value), &data));
        return static_cast<T const*>(data);
    }

    template <typename T>
    T const* required_weight(
        size_t index, std::string const& name, std::initializer_list<size_t> wanted) const
    {
        T const* const found = weight<T>(index, name, wanted);
        if (found == nullptr)
            throw std::invalid_argument(name + " is missing");
        return found;
    }

    // The linear whose parts are the kLinearParts inputs from `first` on.
    Linear linear(std::string const& name, size_t first, size_t inputs, size_t outputs,
        size_t panels, size_t group_size, int river_bits) const
    {
        auto const part = [&](size_t i)
        {
            return name + "." + kPartNames[i];
        };
        Linear linear;
        linear.inputs = inputs;
        linear.outputs = outputs;
        linear.panels = panels;
        Bank &backbone = linear.banks[kBackbone], &river = linear.banks[kRiver];
        backbone.dense.inputs = inputs;
        backbone.dense.single = weight<float>(first, part(0), {panels, inputs, kPanel});
        backbone.dense.half = weight<uint16_t>(first + 1, part(1), {panels, inputs, kPanel});
        backbone.quantised = quantised(name, first, 2, inputs, panels, group_size, 8);
        river.quantised = quantised(name, first, 5, inputs, panels, group_size, river_bits);
        river.pre_scale = weight<float>(first + 8, part(8), {inputs});
        linear.bias = weight<float>(first + 9, part(9), {panels * kPanel});
        int const backbones = (backbone.dense.single != nullptr) + (backbone.dense.half != nullptr)
            + (backbone.quantised.codes != nullptr);
        if (backbones > 1)
            throw std::invalid_argument(name + " has several backbone weights");
        if (!backbone.present() && !river.present())
            throw std::invalid_argument(name + " has no weight");
        if (river.pre_scale != nullptr && !river.present())
            throw std::invalid_argument(part(8) + " needs a river");
        return linear;
    }

    // A linear that has a river alone: the four parts of one, from input `first` on.
    Linear river(std::string const& name, size_t first, size_t inputs, size_t outputs,
        size_t panels, size_t group_size) const
    {
        Linear linear;
        linear.inputs = inputs;
        linear.outputs = outputs;
        linear.panels = panels;
        constexpr size_t kCodes = 5; // among a linear's parts
        linear.banks[kRiver].quantised =
            quantised(name, first - kCodes, kCodes, inputs, panels, group_size, 4);
        linear.banks[kRiver].pre_scale = weight<float>(first + 3, name + ".pre_scale", {inputs});
        if (!linear.banks[kRiver].present())
            throw std::invalid_argument(name + " has no weight");
        return linear;
    }

private:
    // Codes, scales and zero points are parts `from` .. from + 2 of the linear.
    QuantisedPanels quantised(std::string const& name, size_t first, size_t from, size_t inputs,
        size_t panels, size_t group_size, int bits) const
    {
        auto const part = [&](size_t i)
        {
            return name + "." + kPartNames[from + i];
        };
        QuantisedPanels found = {nullptr, nullptr, nullptr, inputs, group_size, bits};
        size_t const groups = found.groups(), bytes = 4 * kPanel * static_cast<size_t>(bits) / 8;
        size_t const at = first + from;
        found.codes = weight<uint8_t>(at, part(0), {panels, groups, group_size / 4, bytes});
        found.scales = weight<float>(at + 1, part(1), {panels, groups, kPanel});
        found.zero_points = weight<uint8_t>(at + 2, part(2), {panels, groups, kPanel});
        if ((found.codes == nullptr) != (found.scales == nullptr))
            throw std::invalid_argument(part(0) + " and " + part(1) + " go together");
        if (found.zero_points != nullptr && found.codes == nullptr)
            throw std::invalid_argument(part(2) + " needs codes");
        return found;
    }

    OrtApi const* api_;
    OrtKernelInfo const* info_;
    size_t inputs_ = 0;
};

// What a node is given, read on every run.
class Call
{
public:
    Call(OrtApi const* api, OrtKernelContext* context)
        : api_(api)
        , context_(context)
    {
    }

    Shape shape(size_t index, char const* name, size_t rank) const
    {
        Shape const shape = Shape::of(api_, value(index, name));
        if (shape.rank != rank)
        {
            throw std::invalid_argument(std::string(name) + " is "
                + Shape::text(shape.sizes, shape.rank) + ", but must have " + std::to_string(rank)
                + " dimensions");
        }
        return shape;
    }

    // The input's values; refused unless it is there and of this type and shape.
    template <typename T>
    T const* data(size_t index, char const* name, std::initializer_list<int64_t> wanted) const
    {
        OrtValue const* const found = value(index, name);
        Shape::of(api_, found).require(name, kTypeOf<T>, wanted);
        void* data = nullptr;
        check(tensor_data(api_, const_cast<OrtValue*>(found), &data));
        return static_cast<T const*>(data);
    }

    // The output's memory; refused where nothing takes the output.
    template <typename T>
    T* result(size_t index, char const* name, std::initializer_list<int64_t> shape) const
    {
        OrtValue* value = nullptr;
        void* data = nullptr;
        check(output(api_, context_, index, shape.begin(), shape.size(), &value));
        if (value == nullptr)
            throw std::invalid_argument(std::string("the output ") + name + " is missing");
        check(tensor_data(api_, value, &data)); // of the type that the operator is registered with
        return static_cast<T*>(data);
    }

    // The session's own threads. More shares than it has threads do no harm.
    Pool pool()
    {
        auto const run = [](void* self, void (*work)(void*, size_t), size_t count, void* argument)
        {
            Call const& call = *static_cast<Call*>(self);
            check(parallel_for(call.api_, call.context_, work, count, 0, argument));
        };
        static size_t const threads = std::max(1u, std::thread::hardware_concurrency());
        return {run, this, threads};
    }

private:
    OrtValue const* value(size_t index, char const* name) const
    {
        OrtValue const* value = nullptr;
        check(input(api_, context_, index, &value));
        if (value == nullptr)
            throw std::invalid_argument(std::string(name) + " is missing");
        return value;
    }

    OrtApi const* api_;
    OrtKernelContext* context_;
};

} // namespace river::ort
