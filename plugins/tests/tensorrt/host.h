// Stand-ins for what TensorRT hands to a plugin, made of its public headers alone: no TensorRT library.
#pragma once
#include <NvInferRuntime.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace host
{
using namespace nvinfer1;

// A size as an expression tree over free dimensions; at() takes their values.
class Expression final : public IDimensionExpr, apiv::VDimensionExpr
{
public:
    static Expression constant(int64_t value)
    {
        return Expression(Kind::kConstant, value);
    }
    static Expression free(int64_t index)
    {
        return Expression(Kind::kFree, index);
    }
    static Expression operation(
        DimensionOperation op, Expression const& left, Expression const& right)
    {
        Expression result(Kind::kOperation, 0);
        result.operation_ = op;
        result.left_ = &left;
        result.right_ = &right;
        return result;
    }
    Expression(Expression const& other) noexcept
        : IDimensionExpr()
        , apiv::VDimensionExpr()
        , kind_(other.kind_)
        , value_(other.value_)
        , operation_(other.operation_)
        , left_(other.left_)
        , right_(other.right_)
    {
        mImpl = this;
    }
    ~Expression() noexcept override = default;

    bool isConstant() const override
    {
        return kind_ == Kind::kConstant;
    }
    int64_t getConstantValue() const override
    {
        return value_;
    }
    bool isSizeTensor() const override
    {
        return false;
    }
    int64_t at(std::vector<int64_t> const& free_dims) const
    {
        switch (kind_)
        {
        case Kind::kConstant:
            return value_;
        case Kind::kFree:
            return free_dims.at(static_cast<size_t>(value_));
        case Kind::kOperation:
            break;
        }
        int64_t const left = left_->at(free_dims), right = right_->at(free_dims);
        switch (operation_)
        {
        case DimensionOperation::kSUM:
            return left + right;
        case DimensionOperation::kPROD:
            return left * right;
        case DimensionOperation::kMAX:
            return std::max(left, right);
        case DimensionOperation::kMIN:
            return std::min(left, right);
        case DimensionOperation::kSUB:
            return left - right;
        case DimensionOperation::kEQUAL:
            return left == right;
        case DimensionOperation::kLESS:
            return left < right;
        case DimensionOperation::kFLOOR_DIV:
            return left / right;
        case DimensionOperation::kCEIL_DIV:
            return (left + right - 1) / right;
        }
        throw std::logic_error("unknown DimensionOperation");
    }

private:
    enum class Kind
    {
        kConstant,
        kFree,
        kOperation
    };
    Expression(Kind kind, int64_t value)
        : kind_(kind)
        , value_(value)
    {
        mImpl = this;
    }
    Kind kind_;
    int64_t value_;
    DimensionOperation operation_{};
    Expression const* left_{nullptr};
    Expression const* right_{nullptr};
};

class ExpressionBuilder final : public IExprBuilder, apiv::VExprBuilder
{
public:
    ExpressionBuilder()
    {
        mImpl = this;
    }
    ~ExpressionBuilder() noexcept override = default;
    IDimensionExpr const* constant(int64_t value) override
    {
        return keep(Expression::constant(value));
    }
    IDimensionExpr const* operation(
        DimensionOperation op, IDimensionExpr const& left, IDimensionExpr const& right) override
    {
        return keep(Expression::operation(
            op, static_cast<Expression const&>(left), static_cast<Expression const&>(right)));
    }
    IDimensionExpr const* declareSizeTensor(
        int32_t, IDimensionExpr const&, IDimensionExpr const&) override
    {
        throw std::logic_error("no plugin of river-trt has a size tensor");
    }
    // Sizes; -1 - i is free dimension i.
    DimsExprs dims(std::vector<int64_t> const& sizes)
    {
        DimsExprs result{};
        result.nbDims = static_cast<int32_t>(sizes.size());
        for (size_t i = 0; i < sizes.size(); ++i)
            result.d[i] = keep(
                sizes[i] < 0 ? Expression::free(-1 - sizes[i]) : Expression::constant(sizes[i]));
        return result;
    }

private:
    Expression const* keep(Expression const& expression)
    {
        all_.push_back(std::make_unique<Expression>(expression));
        return all_.back().get();
    }
    std::vector<std::unique_ptr<Expression>> all_;
};

inline std::vector<int64_t> evaluate(DimsExprs const& dims, std::vector<int64_t> const& free_dims)
{
    std::vector<int64_t> sizes;
    for (int32_t i = 0; i < dims.nbDims; ++i)
        sizes.push_back(static_cast<Expression const*>(dims.d[i])->at(free_dims));
    return sizes;
}

// Keeps what a plugin logs.
class Logger final : public ILogger
{
public:
    void log(Severity severity, AsciiChar const* message) noexcept override
    {
        if (severity == Severity::kERROR)
            lines.emplace_back(message);
    }
    std::vector<std::string> lines;
};

class LoggerFinder final : public ILoggerFinder
{
public:
    ILogger* findLogger() override
    {
        return &logger;
    }
    Logger logger;
};

inline Dims make_dims(std::vector<int64_t> const& sizes)
{
    Dims dims{};
    dims.nbDims = static_cast<int32_t>(sizes.size());
    std::copy(sizes.begin(), sizes.end(), dims.d);
    return dims;
}

inline PluginTensorDesc describe(
    std::vector<int64_t> const& sizes, DataType type, TensorFormat format = TensorFormat::kLINEAR)
{
    PluginTensorDesc tensor{};
    tensor.dims = make_dims(sizes);
    tensor.type = type;
    tensor.format = format;
    tensor.scale = 1.0F;
    return tensor;
}

inline DynamicPluginTensorDesc dynamic(PluginTensorDesc const& tensor)
{
    return DynamicPluginTensorDesc{tensor, tensor.dims, tensor.dims, tensor.dims};
}

// Fields for createPlugin, with storage of their own.
class Fields
{
public:
    Fields& add(char const* name, int32_t value)
    {
        return add_raw(name, PluginFieldType::kINT32, &value, sizeof value, 1);
    }
    Fields& add(char const* name, int64_t value)
    {
        return add_raw(name, PluginFieldType::kINT64, &value, sizeof value, 1);
    }
    Fields& add(char const* name, float value)
    {
        return add_raw(name, PluginFieldType::kFLOAT32, &value, sizeof value, 1);
    }
    Fields& add_raw(
        char const* name, PluginFieldType type, void const* data, size_t bytes, int32_t length)
    {
        auto const* first = static_cast<char const*>(data);
        fields_.push_back({name, std::vector<char>(first, first + bytes), type, length});
        return *this;
    }
    // What an engine does with getFieldsToSerialize: a deep copy (a wrong length shows under ASan).
    static Fields copy_of(PluginFieldCollection const& collection)
    {
        Fields copy;
        for (int32_t i = 0; i < collection.nbFields; ++i)
        {
            PluginField const& field = collection.fields[i];
            size_t const size = field.type == PluginFieldType::kINT64 ? 8 : 4;
            copy.add_raw(field.name, field.type, field.data,
                size * static_cast<size_t>(field.length), field.length);
        }
        return copy;
    }
    PluginFieldCollection const* get()
    {
        views_.clear();
        for (Field const& field : fields_)
            views_.emplace_back(field.name.c_str(), field.data.data(), field.type, field.length);
        collection_ = {static_cast<int32_t>(views_.size()), views_.data()};
        return &collection_;
    }

private:
    struct Field
    {
        std::string name;
        std::vector<char> data;
        PluginFieldType type;
        int32_t length;
    };
    std::vector<Field> fields_;
    std::vector<PluginField> views_;
    PluginFieldCollection collection_{};
};

} // namespace host
