// river_trt_cpu::gate: the dialect's gate (builders/dialect.py), for float32 rows.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "checks.h"

namespace river::torch_cpu {
namespace {

constexpr const char* kOp = "river_trt_cpu::gate";
constexpr float kLeastNorm = 1e-30f;
constexpr size_t kLeastWork = 32768;  // values of a piece for one thread

float cosine(const float* a, const float* b, size_t size) {
  const Kernels& kernel = kernels();
  const float norms = std::sqrt(kernel.dot(a, a, size) * kernel.dot(b, b, size));
  return kernel.dot(a, b, size) / std::max(norms, kLeastNorm);
}

std::tuple<Tensor, Tensor> gate(const Tensor& h_in, const Tensor& h_out, const Tensor& direction,
                                const Tensor& use_direction, const Tensor& exited,
                                const Tensor& exit_layer, const Tensor& tau, const Tensor& scope,
                                int64_t layer) {
  TORCH_CHECK(h_in.dim() == 3, kOp, ": h_in is ", h_in.sizes(), ", but must be [batch, seq, hidden]");
  const int64_t batch = h_in.size(0), seq = h_in.size(1), hidden = h_in.size(2);
  const Tensor before = h_in.contiguous(), after = h_out.contiguous();
  const float* in = data<float>(kOp, "h_in", before, {batch, seq, hidden});
  const float* out = data<float>(kOp, "h_out", after, {batch, seq, hidden});
  const float* reference = data<float>(kOp, "direction", direction, {hidden});
  const bool directed = *data<bool>(kOp, "use_direction", use_direction, {});
  const bool* was_exited = data<bool>(kOp, "exited", exited, {batch, seq});
  const int32_t* left_after = data<int32_t>(kOp, "exit_layer", exit_layer, {batch, seq});
  const float threshold = *data<float>(kOp, "tau", tau, {});
  const int32_t wide = *data<int32_t>(kOp, "scope", scope, {});
  Tensor exited_out = at::empty_like(exited), exit_layer_out = at::empty_like(exit_layer);
  bool* now_exited = exited_out.mutable_data_ptr<bool>();
  int32_t* leaves_after = exit_layer_out.mutable_data_ptr<int32_t>();

  const size_t rows = unsigned_size(batch * seq), size = unsigned_size(hidden);
  static thread_local std::vector<float> scores;
  scores.assign(rows, -INFINITY);
  if (threshold != INFINITY) {  // which no score passes
    const size_t grain = std::max<size_t>(1, kLeastWork / size);
    float* score = scores.data();
    parallel_for(rows, grain, [&](size_t first, size_t end) {
      for (size_t row = first; row < end; ++row) {
        if (wide == 0 && was_exited[row]) continue;  // its flag stays
        score[row] = cosine(directed ? reference : in + row * size, out + row * size, size);
      }
    });
  }
  if (wide != 0) {  // the smallest score of a sequence or of the batch stands for all of it
    const size_t each = wide == 1 ? unsigned_size(seq) : rows;
    for (auto start = scores.begin(); start < scores.end(); start += static_cast<int64_t>(each)) {
      const auto end = start + static_cast<int64_t>(each);
      std::fill(start, end, *std::min_element(start, end));
    }
  }
  for (size_t row = 0; row < rows; ++row) {
    const bool passed = scores[row] > threshold;
    now_exited[row] = was_exited[row] || passed;
    leaves_after[row] = passed && !was_exited[row] ? static_cast<int32_t>(layer) : left_after[row];
  }
  return {exited_out, exit_layer_out};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(river_trt_cpu, library) {
  library.def(
      "gate(Tensor h_in, Tensor h_out, Tensor direction, Tensor use_direction, Tensor exited, "
      "Tensor exit_layer, Tensor tau, Tensor scope, int layer) -> (Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(river_trt_cpu, CPU, library) { library.impl("gate", TORCH_FN(gate)); }

}  // namespace river::torch_cpu
