// A case of the linear kernel with its data, and the same in double precision.
#pragma once

#include <algorithm>
#include <map>

#include "testing.h"

namespace river::test
{
struct LinearShape
{
    int rows = 1;
    int n = 16;
    int k = 64;
    int group_size = 64;
    bool asymmetric = true;
    bool pre_scale = false;
    bool bias = false;
    bool norm = false;
    bool silu_mul = false;
    bool residual = false;
    FlagType flag_type = FlagType::kBool;
    Banks banks = Banks::kByFlag;
    uint32_t river_rows = 0; // bit r: row r is on the river; beyond 32 rows it repeats
    bool packed = false;     // the river bank in the layout of packed.h
    bool int8 = false;       // x in 8 bits, over a packed bank
    int variant = -1;
    bool early = false;
    int sliced_blocks = 0; // run only so many blocks at both ends of the grid; 0: all

    int groups() const
    {
        return (k + group_size - 1) / group_size;
    }
    int width() const
    {
        return silu_mul ? n / 2 : n;
    }
    bool on_river(int row) const
    {
        return banks == Banks::kRiver
            || (banks == Banks::kByFlag && (river_rows >> (row % 32) & 1U) != 0);
    }
    std::string name() const
    {
        char text[200];
        std::snprintf(text, sizeof(text),
            "linear rows=%d n=%d k=%d g=%d%s%s%s%s%s%s%s%s variant=%d flags=%x banks=%d", rows, n,
            k, group_size, asymmetric ? " asym" : "", pre_scale ? " pre_scale" : "",
            bias ? " bias" : "", norm ? " norm" : "", silu_mul ? " silu" : "",
            residual ? " residual" : "", packed ? " packed" : "", int8 ? " int8" : "", variant,
            river_rows, static_cast<int>(banks));
        return text;
    }
};

template <typename T>
class LinearCase
{
public:
    LinearShape const shape;
    LinearParams params;
    Memory x, flags, weight, qweight, scales, zero_points, pre_scale, bias, norm, residual, y;
    Memory packed;

    LinearCase(LinearShape const& s, uint64_t seed)
        : shape(s)
        , x(2UL * s.rows * s.k)
        , flags((s.flag_type == FlagType::kBool ? 1UL : 4UL) * s.rows)
        , weight(2UL * s.n * s.k)
        , qweight(static_cast<size_t>(s.n) * s.groups() * s.group_size / 2)
        , scales(2UL * s.n * s.groups())
        , zero_points(1UL * s.n * s.groups())
        , pre_scale(2UL * s.k)
        , bias(2UL * s.n)
        , norm(2UL * s.k)
        , residual(2UL * s.rows * s.width())
        , y(2UL * s.rows * s.width())
        , packed(s.packed ? packed_river_bytes(s.n, s.k, s.group_size) : 16)
    {
        Random random(seed);
        fill<T>(x, static_cast<size_t>(s.rows) * s.k, random, 1.0);
        for (int row = 0; row < s.rows; ++row)
            store_flag(flags.as<void>(), s.flag_type, row, (s.river_rows >> (row % 32) & 1U) != 0);
        for (int n = 0; n < s.n; ++n)
            if (runs(n % s.width()))
                fill_weights(n, random);
        for (int k = 0; k < s.k; ++k)
        {
            put<__half>(pre_scale, k, 0.5 + random.uniform());
            put<T>(norm, k, 0.5 + random.uniform());
        }
        fill<T>(bias, s.n, random, 1.0);
        fill<T>(residual, static_cast<size_t>(s.rows) * s.width(), random, 2.0);
        y.poison();
        set_params();
        if (s.packed)
            pack();
    }

    // Is output n of [0, width) computed, where only a slice of the grid runs?
    bool runs(int n) const
    {
        if (shape.sliced_blocks == 0)
            return true;
        int const edge = 16 * shape.sliced_blocks;
        return n < edge || n >= shape.width() / 32 * 32 - edge;
    }

    void run()
    {
#if defined(RIVER_CPU_SHIM)
        if (shape.sliced_blocks > 0)
            shim::block_filter() = [edge = static_cast<unsigned>(shape.sliced_blocks)](unsigned b)
            {
                return b < edge || b + edge >= shim::Block::current().grid[0];
            };
#endif
        check(explain_linear(params) == nullptr, shape.name() + ": " + or_none(params));
        check(finished(launch_linear(params, nullptr)), shape.name() + ": launch");
#if defined(RIVER_CPU_SHIM)
        shim::block_filter() = nullptr;
#endif
    }

    void compare()
    {
        std::vector<double> got;
        std::vector<double> expected;
        for (int row = 0; row < shape.rows; ++row)
            for (int n = 0; n < shape.width(); ++n)
            {
                if (!runs(n))
                    continue;
                got.push_back(get<T>(y, static_cast<size_t>(row) * shape.width() + n));
                expected.push_back(reference(row, n));
            }
        double const error = relative_error(got, expected);
        check(error <= tolerance<T>(), shape.name() + " error " + std::to_string(error));
    }

    double reference(int row, int n) const
    {
        auto& self = const_cast<LinearCase&>(*this);
        double value = self.product(row, n);
        if (shape.silu_mul)
            value = value / (1.0 + std::exp(-value)) * self.product(row, n + shape.width());
        if (shape.residual)
            value += get<T>(self.residual, static_cast<size_t>(row) * shape.width() + n);
        return value;
    }

private:
    static std::string or_none(LinearParams const& p)
    {
        char const* text = explain_linear(p);
        return text == nullptr ? "" : text;
    }

    void fill_weights(int n, Random& random)
    {
        size_t const row = static_cast<size_t>(n) * shape.k;
        for (int k = 0; k < shape.k; ++k)
            put<T>(weight, row + k, 0.05 * random.normal());
        size_t const codes = static_cast<size_t>(shape.groups()) * shape.group_size / 2;
        for (size_t i = 0; i < codes; ++i)
            qweight.as<uint8_t>()[n * codes + i] = static_cast<uint8_t>(random.next() >> 5);
        for (int g = 0; g < shape.groups(); ++g)
        {
            size_t const group = static_cast<size_t>(n) * shape.groups() + g;
            put<__half>(scales, group, 0.005 + 0.02 * random.uniform());
            zero_points.as<uint8_t>()[group] = static_cast<uint8_t>(random.next() >> 7 & 15U);
        }
    }

    void pack()
    {
        packed.poison();
        check(finished(pack_river(params.river, shape.n, shape.k, packed.as<void>(), nullptr)),
            shape.name() + ": pack");
        params.river.qweight = params.river.scales = params.river.zero_points = nullptr;
        params.river.packed = packed.as<void>();
        params.river.int8_activations = shape.int8;
    }

    // What the bank multiplies, before T's rounding; int8 rounds as the kernel does.
    std::vector<double> const& prepared(int row, bool river)
    {
        std::vector<double>& values = prepared_[2 * row + (river ? 1 : 0)];
        if (!values.empty())
            return values;
        size_t const start = static_cast<size_t>(row) * shape.k;
        double mean = 0.0;
        for (int k = 0; shape.norm && k < shape.k; ++k)
            mean += std::pow(get<T>(x, start + k), 2) / shape.k;
        for (int k = 0; k < shape.k; ++k)
        {
            double value = get<T>(x, start + k);
            if (shape.norm)
                value *= get<T>(norm, k) / std::sqrt(mean + params.norm_eps);
            values.push_back(value * (river && shape.pre_scale ? get<__half>(pre_scale, k) : 1.0));
        }
        if (river && shape.int8)
            for (size_t chunk = 0; chunk < values.size(); chunk += 64)
            {
                size_t const end = std::min(chunk + 64, values.size());
                double most = 1e-30;
                for (size_t k = chunk; k < end; ++k)
                    most = std::max(most, std::fabs(values[k]));
                for (size_t k = chunk; k < end; ++k)
                    values[k] = std::nearbyint(values[k] * 127.0 / most) * most / 127.0;
            }
        return values;
    }

    double product(int row, int n)
    {
        bool const river = shape.on_river(row);
        std::vector<double> const& values = prepared(row, river);
        double sum = shape.bias ? get<T>(bias, n) : 0.0;
        for (int k = 0; k < shape.k; ++k)
        {
            double const value = values[k];
            if (!river)
            {
                sum += value * get<T>(weight, static_cast<size_t>(n) * shape.k + k);
                continue;
            }
            int const g = k / shape.group_size;
            size_t const group = static_cast<size_t>(n) * shape.groups() + g;
            uint8_t const byte =
                qweight.as<uint8_t>()[group * shape.group_size / 2 + k % shape.group_size / 2];
            int const code = k % 2 == 0 ? byte & 15 : byte >> 4;
            int const zero = shape.asymmetric ? zero_points.as<uint8_t>()[group] : 8;
            sum += value * (code - zero) * get<__half>(scales, group);
        }
        return sum;
    }

    void set_params()
    {
        params.type = type_of<T>();
        params.flag_type = shape.flag_type;
        params.banks = shape.banks;
        params.rows = shape.rows;
        params.n = shape.n;
        params.k = shape.k;
        params.x = x.as<void>();
        params.use_river = flags.as<void>();
        params.weight = weight.as<void>();
        params.river.qweight = qweight.as<void>();
        params.river.scales = scales.as<void>();
        params.river.zero_points = shape.asymmetric ? zero_points.as<void>() : nullptr;
        params.river.pre_scale = shape.pre_scale ? pre_scale.as<void>() : nullptr;
        params.river.group_size = shape.group_size;
        params.bias = shape.bias ? bias.as<void>() : nullptr;
        params.norm_weight = shape.norm ? norm.as<void>() : nullptr;
        params.norm_eps = 1e-5F;
        params.silu_mul = shape.silu_mul;
        params.residual = shape.residual ? residual.as<void>() : nullptr;
        params.y = y.as<void>();
        params.variant = shape.variant;
        params.flags_early = shape.early;
    }

    std::map<int, std::vector<double>> prepared_; // by 2 * row + bank
};
} // namespace river::test
