// river_trt_cpu::gate: the dialect's gate (builders/dialect.py), for float32 rows.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "checks.h"

namespace river::torch_cpu
{
namespace
{

constexpr char const* kOp = "river_trt_cpu::gate";
constexpr float kLeastNorm = 1e-30f;
constexpr size_t kLeastWork = 32768; // values of a piece for one thread

float cosine(float const* a, float const* b, size_t size)
{
    Kernels const& kernel = kernels();
    float const norms = std::sqrt(kernel.dot(a, a, size) * kernel.dot(b, b, size));
    return kernel.dot(a, b, size) / std::max(norms, kLeastNorm);
}

std::tuple<Tensor, Tensor> gate(Tensor const& h_in, Tensor const& h_out, Tensor const& direction,
    Tensor const& use_direction, Tensor const& exited, Tensor const& exit_layer, Tensor const& tau,
    Tensor const& scope, int64_t layer)
{
    TORCH_CHECK(
        h_in.dim() == 3, kOp, ": h_in is ", h_in.sizes(), ", but must be [batch, seq, hidden]");
    int64_t const batch = h_in.size(0), seq = h_in.size(1), hidden = h_in.size(2);
    TORCH_CHECK(hidden >= 1, kOp, ": h_in is ", h_in.sizes(), ", and has no values");
    Tensor const before = h_in.contiguous(), after = h_out.contiguous();
    float const* in = data<float>(kOp, "h_in", before, {batch, seq, hidden});
    float const* out = data<float>(kOp, "h_out", after, {batch, seq, hidden});
    float const* reference = data<float>(kOp, "direction", direction, {hidden});
    bool const directed = *data<bool>(kOp, "use_direction", use_direction, {});
    bool const* was_exited = data<bool>(kOp, "exited", exited, {batch, seq});
    int32_t const* left_after = data<int32_t>(kOp, "exit_layer", exit_layer, {batch, seq});
    float const threshold = *data<float>(kOp, "tau", tau, {});
    int32_t const wide = *data<int32_t>(kOp, "scope", scope, {});
    TORCH_CHECK(wide >= 0 && wide <= 2, kOp, ": scope is ", wide, ", but must be 0, 1 or 2");
    Tensor exited_out = at::empty_like(exited), exit_layer_out = at::empty_like(exit_layer);
    bool* now_exited = exited_out.mutable_data_ptr<bool>();
    int32_t* leaves_after = exit_layer_out.mutable_data_ptr<int32_t>();

    size_t const rows = unsigned_size(batch * seq), size = unsigned_size(hidden);
    static thread_local std::vector<float> scores;
    scores.assign(rows, -INFINITY);
    if (threshold != INFINITY)
    { // which no score passes
        size_t const grain = std::max<size_t>(1, kLeastWork / size);
        float* score = scores.data();
        parallel_for(rows, grain, [&](size_t first, size_t end)
        {
            for (size_t row = first; row < end; ++row)
            {
                if (wide == 0 && was_exited[row])
                    continue; // its flag stays
                score[row] = cosine(directed ? reference : in + row * size, out + row * size, size);
            }
        });
    }
    if (wide != 0)
    { // the smallest score of a sequence or of the batch stands for all of it
        size_t const each = wide == 1 ? unsigned_size(seq) : rows;
        for (auto start = scores.begin(); start < scores.end(); start += static_cast<int64_t>(each))
        {
            auto const end = start + static_cast<int64_t>(each);
            std::fill(start, end, *std::min_element(start, end));
        }
    }
    for (size_t row = 0; row < rows; ++row)
    {
        bool const passed = scores[row] > threshold;
        now_exited[row] = was_exited[row] || passed;
        leaves_after[row] =
            passed && !was_exited[row] ? static_cast<int32_t>(layer) : left_after[row];
    }
    return {exited_out, exit_layer_out};
}

} // namespace

TORCH_LIBRARY_FRAGMENT(river_trt_cpu, library)
{
    library.def(
        "gate(Tensor h_in, Tensor h_out, Tensor direction, Tensor use_direction, Tensor exited, "
        "Tensor exit_layer, Tensor tau, Tensor scope, int layer) -> (Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(river_trt_cpu, CPU, library)
{
    library.impl("gate", TORCH_FN(gate));
}

} // namespace river::torch_cpu
