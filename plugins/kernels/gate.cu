// Launcher of the gate.
#include "gate.cuh"

namespace river
{
namespace
{
constexpr void (*kGateKernels[2])(GateParams) = {&gate_kernel<__half>, &gate_kernel<__nv_bfloat16>};
}

size_t gate_workspace_bytes(GateParams const& p)
{
    return kGateCounterBytes + sizeof(float) * static_cast<size_t>(p.batch) * p.seq;
}

char const* explain_gate(GateParams const& p)
{
    if (p.type != DataType::kHalf && p.type != DataType::kBfloat16)
        return "gate: type must be fp16 or bf16";
    if (p.batch < 1 || p.seq < 1 || static_cast<int64_t>(p.batch) * p.seq > kMostGateTokens)
        return "gate: batch * seq must be 1 to 65536";
    if (p.hidden < 8 || p.hidden > 65536 || p.hidden % 8 != 0)
        return "gate: hidden must be a multiple of 8 from 8 to 65536";
    if (p.layer < 1)
        return "gate: layer counts from 1";
    if (p.delta == nullptr || p.tau == nullptr)
        return "gate: delta and tau must be given";
    if (p.h_in == nullptr && (p.direction == nullptr || p.use_direction != nullptr))
        return "gate: h_in must be given unless the reference is always the direction";
    if (p.residual != nullptr && p.h_out == nullptr)
        return "gate: h_out must be given with residual";
    if (p.exited_out == nullptr || p.exit_layer_out == nullptr)
        return "gate: exited_out and exit_layer_out must be given";
    if (p.exit_layer == nullptr && p.num_layers < p.layer)
        return "gate: num_layers must be given, and at least layer, where exit_layer is not";
    for (void const* pointer : {p.h_in, p.delta, p.residual, static_cast<void const*>(p.h_out),
             static_cast<void const*>(p.direction)})
        if (reinterpret_cast<uintptr_t>(pointer) % 16 != 0)
            return "gate: h_in, delta, residual, h_out and direction must be aligned to 16 bytes";
    bool const aligned = reinterpret_cast<uintptr_t>(p.workspace) % 16 == 0;
    if (p.scope != nullptr
        && (p.workspace == nullptr || !aligned || p.workspace_bytes < gate_workspace_bytes(p)))
        return "gate: the workspace is smaller than gate_workspace_bytes() or not aligned";
    return nullptr;
}

cudaError_t launch_gate(GateParams const& p, cudaStream_t stream)
{
    if (explain_gate(p) != nullptr)
        return cudaErrorInvalidValue;
    dim3 const grid(static_cast<unsigned>(p.batch * p.seq));
    int threads = 128; // a power of two, so that a warp is whole
    while (threads < kMaxGateThreads && 8 * threads < p.hidden)
        threads *= 2;
    return launch(kGateKernels[static_cast<int>(p.type)], grid, threads, p, p.programmatic, stream);
}
} // namespace river
