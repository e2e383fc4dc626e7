// How long a layer's products take with each bank and instruction set: CPU time of one thread, the
// least of some rounds that take turns. Of a model's sizes: hidden, intermediate, q + k + v.
//
//   program ROWS GROUP_SIZE HIDDEN INTERMEDIATE QKV ROUNDS
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <random>
#include <string>
#include <vector>

#include "block.h"

using namespace river;

namespace
{

std::mt19937 rng(0);

template <typename T>
std::vector<T> numbers(size_t count, double least, double most)
{
    std::uniform_real_distribution<double> any(least, most);
    std::vector<T> values(count);
    for (T& value : values)
        value = static_cast<T>(any(rng));
    return values;
}

struct Weights
{
    std::vector<float> single, scales;
    std::vector<uint16_t> half;
    std::vector<uint8_t> codes, zero_points;
    Linear linear;
    WeightMemory memory;

    Weights(std::string const& bank, size_t inputs, size_t outputs, size_t group_size)
    {
        linear.inputs = inputs;
        linear.outputs = outputs;
        linear.panels = (outputs + kPanel - 1) / kPanel;
        size_t const count = linear.panels * kPanel * inputs;
        Bank& to = linear.banks[bank == "river" ? kRiver : kBackbone];
        to.dense.inputs = inputs;
        int const bits = bank == "river" ? 4 : 8;
        for (Bank& each : linear.banks)
            each.quantised = {nullptr, nullptr, nullptr, inputs, group_size, bits};
        if (bank == "float32")
        {
            single = numbers<float>(count, -1, 1);
            to.dense.single = single.data();
        }
        else if (bank == "float16")
        {
            half = numbers<uint16_t>(count, 1, 0x7bff);
            to.dense.half = half.data();
        }
        else
        {
            size_t const grid = linear.panels * to.quantised.groups() * kPanel;
            codes = numbers<uint8_t>(linear.panels * to.quantised.panel_bytes(), 0, 256);
            scales = numbers<float>(grid, 0.001, 0.002);
            zero_points = numbers<uint8_t>(grid, 0, bits == 4 ? 16 : 256);
            to.quantised.codes = codes.data();
            to.quantised.scales = scales.data();
            to.quantised.zero_points = zero_points.data();
        }
        linear.take(memory);
        memory.take();
    }
};

double cpu_seconds()
{
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

} // namespace

int main(int, char** argv)
{
    size_t const rows = std::strtoul(argv[1], nullptr, 10),
                 group = std::strtoul(argv[2], nullptr, 10);
    size_t const hidden = std::strtoul(argv[3], nullptr, 10);
    size_t const intermediate = std::strtoul(argv[4], nullptr, 10);
    size_t const qkv = std::strtoul(argv[5], nullptr, 10),
                 rounds = std::strtoul(argv[6], nullptr, 10);
    std::vector<Kernels const*> tables = {&kernels()};
#if defined(__x86_64__)
    if (has_amx() && &kernels() == &amx_kernels())
        tables.push_back(&kAvx512);
    if (&kernels() != &kPortable && &kernels() != &kAvx2)
        tables.push_back(&kAvx2);
#endif
    std::vector<std::string> const banks = {"float32", "float16", "int8", "river"};
    std::vector<std::vector<Weights>> weights;
    for (std::string const& bank : banks)
    {
        auto& layer = weights.emplace_back();
        layer.emplace_back(bank, hidden, qkv, group);
        layer.emplace_back(bank, hidden, hidden, group);
        layer.emplace_back(bank, hidden, 2 * intermediate, group);
        layer.emplace_back(bank, intermediate, hidden, group);
    }
    auto const x = numbers<float>(rows * std::max(hidden, intermediate), -1, 1);
    std::vector<float> y(rows * std::max(2 * intermediate, qkv));
    Pool const pool = {nullptr, nullptr, 1};
    Scratch scratch;
    std::vector<std::vector<double>> least(tables.size(), std::vector<double>(banks.size(), 1e9));
    for (size_t round = 0; round < rounds; ++round)
    {
        for (size_t t = 0; t < tables.size(); ++t)
        {
            for (size_t b = 0; b < banks.size(); ++b)
            {
                double const start = cpu_seconds();
                for (Weights const& of : weights[b])
                {
                    run_linear(*tables[t], of.linear, true, nullptr, x.data(), rows, y.data(), pool,
                        scratch);
                }
                least[t][b] = std::min(least[t][b], cpu_seconds() - start);
            }
        }
    }
    for (size_t t = 0; t < tables.size(); ++t)
    {
        std::printf("%-12s", tables[t]->name);
        for (size_t b = 0; b < banks.size(); ++b)
        {
            std::printf("  %s %.3f ms (%.2f)", banks[b].c_str(), 1e3 * least[t][b],
                least[t][b] / least[t][0]);
        }
        std::printf("\n");
    }
}
