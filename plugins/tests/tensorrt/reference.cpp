#include "reference.h"

#include <cmath>
#include <cstdlib>
#include <random>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace reference
{
namespace
{
using layers::Layer;
using nvinfer1::DataType;

Results linear(Layer const&, Values const& v)
{
    std::vector<int64_t> const x = v.sizes("x");
    int64_t const rows = x[0] * x[1], k = x[2], groups = (k + layers::kGroup - 1) / layers::kGroup;
    int64_t const n = v.has("weight") ? v.sizes("weight")[0] : v.sizes("qweight")[0];
    bool const silu = v.sizes("y")[2] != n;
    std::vector<double> y;
    for (int64_t row = 0; row < rows; ++row)
    {
        bool const river = v.has("use_river") ? v.at("use_river", row) != 0.0 : v.has("qweight");
        std::vector<double> in(static_cast<size_t>(k)), out(static_cast<size_t>(n));
        double squares = 0.0;
        for (int64_t i = 0; i < k; ++i)
        {
            in[static_cast<size_t>(i)] = v.at("x", row * k + i);
            squares += in[static_cast<size_t>(i)] * in[static_cast<size_t>(i)];
        }
        for (int64_t i = 0; i < k; ++i)
        {
            double& one = in[static_cast<size_t>(i)];
            if (v.has("norm_weight"))
                one *= v.at("norm_weight", i)
                    / std::sqrt(squares / static_cast<double>(k) + layers::kNormEps);
            if (river && v.has("pre_scale"))
                one *= v.at("pre_scale", i);
        }
        for (int64_t j = 0; j < n; ++j)
        {
            double sum = v.has("bias") ? v.at("bias", j) : 0.0;
            for (int64_t i = 0; i < k; ++i)
            {
                double weight = 0.0;
                if (river)
                {
                    int64_t const group = j * groups + i / layers::kGroup;
                    int64_t const nibble = group * layers::kGroup + i % layers::kGroup;
                    uint32_t const code = v.byte("qweight", nibble / 2) >> (nibble % 2 * 4) & 15U;
                    double const zero = v.has("zero_points") ? v.byte("zero_points", group) : 8.0;
                    weight = (code - zero) * v.at("scales", group);
                }
                else
                    weight = v.at("weight", j * k + i);
                sum += weight * in[static_cast<size_t>(i)];
            }
            out[static_cast<size_t>(j)] = sum;
        }
        for (int64_t j = 0; j < (silu ? n / 2 : n); ++j)
        {
            double one = out[static_cast<size_t>(j)];
            if (silu)
                one = one / (1.0 + std::exp(-one)) * out[static_cast<size_t>(j + n / 2)];
            if (v.has("residual"))
                one += v.at("residual", row * n + j);
            y.push_back(one);
        }
    }
    return {{"y", y}};
}

Results gate(Layer const& layer, Values const& v)
{
    std::vector<int64_t> const h = v.sizes("h_in");
    int64_t const rows = h[0] * h[1], hidden = h[2];
    std::vector<double> score, sum;
    for (int64_t row = 0; row < rows; ++row)
    {
        double dot = 0.0, left = 0.0, right = 0.0;
        for (int64_t i = 0; i < hidden; ++i)
        {
            double const out = v.at("delta", row * hidden + i)
                + (v.has("residual") ? v.at("residual", row * hidden + i) : 0.0);
            bool const direction = v.has("use_directions") && v.at("use_directions", 0) != 0.0;
            double const reference = direction ? v.at("directions", (layer.index - 1) * hidden + i)
                                               : v.at("h_in", row * hidden + i);
            dot += out * reference;
            left += out * out;
            right += reference * reference;
            sum.push_back(out);
        }
        score.push_back(dot / std::sqrt(left * right));
    }
    auto const least = [&score](int64_t first, int64_t last)
    {
        double const smallest = *std::min_element(score.begin() + first, score.begin() + last);
        std::fill(score.begin() + first, score.begin() + last, smallest);
    };
    if (v.at("scope", 0) == 1.0)
    {
        for (int64_t row = 0; row < rows; row += h[1])
            least(row, row + h[1]);
    }
    else if (v.at("scope", 0) == 2.0)
        least(0, rows);
    Results results{{"exited_out", {}}, {"exit_layer_out", {}}};
    for (int64_t row = 0; row < rows; ++row)
    {
        bool const before = v.has("exited") && v.at("exited", row) != 0.0;
        bool const passed = score[static_cast<size_t>(row)] > v.at("tau", layer.index - 1);
        double const old = v.has("exit_layer") ? v.at("exit_layer", row) : double(layers::kLayers);
        results["exited_out"].push_back(before || passed ? 1.0 : 0.0);
        results["exit_layer_out"].push_back(!before && passed ? layer.index : old);
        if (v.has("use_river"))
            results["use_river"].push_back(
                (before || passed) && v.at("pinned", layer.index) == 0.0 ? 1.0 : 0.0);
    }
    if (v.has("h_out"))
        results["h_out"] = sum;
    return results;
}

Results attention(Layer const&, Values const& v)
{
    bool const packed = v.has("qkv");
    int64_t const batch = v.sizes("out")[0], seq = v.sizes("out")[1],
                  capacity = v.sizes("k_cache")[2];
    int64_t const d = layers::kHeadDim, heads = layers::kHeads, kv_heads = layers::kKvHeads;
    // Part 0 is q, 1 is k, 2 is v.
    auto const part = [&](int64_t which, int64_t row, int64_t head, int64_t i)
    {
        if (!packed)
            return v.at(which == 0 ? "q"
                    : which == 1   ? "k"
                                   : "v",
                (row * (which == 0 ? heads : kv_heads) + head) * d + i);
        int64_t const first = which == 0 ? 0 : which == 1 ? heads : heads + kv_heads;
        return v.at("qkv", (row * (heads + 2 * kv_heads) + first + head) * d + i);
    };
    auto const rotated = [&](int64_t which, int64_t row, int64_t head, int64_t i, int64_t position)
    {
        if (!v.has("rotary_cos"))
            return part(which, row, head, i);
        int64_t const half = d / 2, j = position * half + i % half;
        double const one = part(which, row, head, i),
                     other = part(which, row, head, (i + half) % d);
        return one * v.at("rotary_cos", j) + (i < half ? -other : other) * v.at("rotary_sin", j);
    };
    Results results{{"out", {}}, {"k_cache_out", {}}, {"v_cache_out", {}}};
    std::vector<double>&keys = results["k_cache_out"], &cached = results["v_cache_out"],
    &out = results["out"];
    for (int64_t i = 0; i < v.count("k_cache"); ++i)
    {
        keys.push_back(v.at("k_cache", i));
        cached.push_back(v.at("v_cache", i));
    }
    auto const slot = [&](int64_t b, int64_t head, int64_t position, int64_t i)
    {
        return static_cast<size_t>(((b * kv_heads + head) * capacity + position) * d + i);
    };
    for (int64_t row = 0; row < batch * seq; ++row)
    {
        auto const position = static_cast<int64_t>(v.at("past_lengths", row / seq)) + row % seq;
        for (int64_t head = 0; head < kv_heads; ++head)
        {
            for (int64_t i = 0; i < d; ++i)
            {
                keys[slot(row / seq, head, position, i)] = rotated(1, row, head, i, position);
                cached[slot(row / seq, head, position, i)] = part(2, row, head, i);
            }
        }
    }
    for (int64_t row = 0; row < batch * seq; ++row)
    {
        int64_t const b = row / seq,
                      position = static_cast<int64_t>(v.at("past_lengths", b)) + row % seq;
        int64_t const first = packed ? 0 : std::max(int64_t{0}, position - layers::kWindow + 1);
        for (int64_t head = 0; head < heads; ++head)
        {
            int64_t const kv = head / (heads / kv_heads);
            std::vector<double> sum(static_cast<size_t>(d), 0.0);
            double weights = 0.0;
            for (int64_t j = first; j <= position; ++j)
            {
                double score = 0.0;
                for (int64_t i = 0; i < d; ++i)
                    score += rotated(0, row, head, i, position) * keys[slot(b, kv, j, i)];
                score *= layers::kScale;
                if (!packed)
                    score = layers::kSoftcap * std::tanh(score / layers::kSoftcap);
                double const weight = std::exp(score);
                weights += weight;
                for (int64_t i = 0; i < d; ++i)
                    sum[static_cast<size_t>(i)] += weight * cached[slot(b, kv, j, i)];
            }
            for (double const one : sum)
                out.push_back(one / weights);
        }
    }
    return results;
}

} // namespace

Values::Values(Layer const& layer, std::vector<int64_t> const& free_sizes, unsigned seed)
{
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    auto const fill = [&](std::string const& name, auto&& next)
    {
        for (int64_t i = 0; i < count(name); ++i)
            set(name, i, next(i));
    };
    for (layers::Tensor const& tensor : layer.all())
    {
        std::string const& name = tensor.name;
        sizes_[name] = layers::resolve(tensor.sizes, free_sizes);
        types_[name] = tensor.type;
        memory_[name].reset(std::aligned_alloc(256, (bytes(name) + 255) / 256 * 256));
        std::memset(memory_[name].get(), 0xFF, bytes(name)); // NaN, and no flag's or layer's value
        if (name == "qweight" || name == "zero_points")
        {
            auto* const words = static_cast<uint32_t*>(memory(name));
            for (int64_t i = 0; i < count(name); ++i)
                words[i] =
                    static_cast<uint32_t>(random()) & (name == "qweight" ? ~0U : 0x0F0F0F0FU);
        }
        else if (name == "scales")
            fill(name, [&](int64_t) { return 0.01 * std::abs(normal(random)) + 0.001; });
        else if (name == "past_lengths")
            fill(name, [&](int64_t i) { return double(5 + 6 * i); });
        else if (name == "scope" || name == "use_directions")
            fill(name, [](int64_t) { return 0.0; });
        else if (name == "exit_layer")
            fill(name, [](int64_t) { return double(layers::kLayers); });
        else if (tensor.type == DataType::kINT32)
            fill(name, [&](int64_t) { return double(random() % 2); });
        else if (name == "tau")
            fill(name, [](int64_t) { return 0.0; }); // random vectors pass it half of the time
        else
            fill(name, [&](int64_t) { return normal(random); });
    }
    for (layers::Tensor const& tensor : layer.outputs)
        std::memset(memory(tensor.name), 0xFF, bytes(tensor.name));
}

int64_t Values::count(std::string const& name) const
{
    int64_t product = 1;
    for (int64_t const size : sizes(name))
        product *= size;
    return product;
}

size_t Values::bytes(std::string const& name) const
{
    bool const wide = types_.at(name) == DataType::kFLOAT || types_.at(name) == DataType::kINT32;
    return static_cast<size_t>(count(name)) * (wide ? 4 : 2);
}

double Values::at(std::string const& name, int64_t i) const
{
    void const* const memory = memory_.at(name).get();
    switch (types_.at(name))
    {
    case DataType::kFLOAT:
        return static_cast<float const*>(memory)[i];
    case DataType::kINT32:
        return static_cast<int32_t const*>(memory)[i];
    case DataType::kHALF:
        return __half2float(static_cast<__half const*>(memory)[i]);
    default:
        return __bfloat162float(static_cast<__nv_bfloat16 const*>(memory)[i]);
    }
}

void Values::set(std::string const& name, int64_t i, double value)
{
    void* const memory = memory_.at(name).get();
    auto const single = static_cast<float>(value);
    switch (types_.at(name))
    {
    case DataType::kFLOAT:
        static_cast<float*>(memory)[i] = single;
        break;
    case DataType::kINT32:
        static_cast<int32_t*>(memory)[i] = static_cast<int32_t>(value);
        break;
    case DataType::kHALF:
        static_cast<__half*>(memory)[i] = __float2half_rn(single);
        break;
    default:
        static_cast<__nv_bfloat16*>(memory)[i] = __float2bfloat16_rn(single);
        break;
    }
}

Results compute(Layer const& layer, Values const& values)
{
    if (layer.plugin == "RiverLinear")
        return linear(layer, values);
    return layer.plugin == "RiverGate" ? gate(layer, values) : attention(layer, values);
}

} // namespace reference
