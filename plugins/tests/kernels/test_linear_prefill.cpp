// More than eight rows: prologue, dequantisation, select and epilogue around a product that
// host_gemm.cpp computes here. What cuBLASLt does is tested on a GPU only.
#include <cstring>

#include "linear_case.h"

using namespace river;
using namespace river::test;

namespace
{
uint64_t seed = 77;

template <typename T>
class PrefillCase : public LinearCase<T>
{
public:
    explicit PrefillCase(LinearShape const& shape)
        : LinearCase<T>(shape, ++seed)
        , workspace(linear_workspace_bytes(this->params))
    {
        this->params.workspace = workspace.template as<void>();
        this->params.workspace_bytes = workspace.bytes();
    }
    Memory workspace; // its pages are poisoned by no one: 32 MiB of it are the product's own
};

template <typename T>
void run_case(LinearShape const& shape)
{
    PrefillCase<T> c(shape);
    c.run();
    c.compare();
}

void mixed_rows_and_single_banks()
{
    for (Banks banks : {Banks::kByFlag, Banks::kBackbone, Banks::kRiver})
        for (bool norm : {false, true})
            for (bool pre_scale : {false, true})
                for (int form : {0, 1, 2, 3}) // plain, residual, silu, bias
                {
                    LinearShape const shape{.rows = 11,
                        .n = 24,
                        .k = 72,
                        .group_size = 32,
                        .pre_scale = pre_scale,
                        .bias = form == 3,
                        .norm = norm,
                        .silu_mul = form == 2,
                        .residual = form == 1,
                        .banks = banks,
                        .river_rows = 0x2d5};
                    run_case<__half>(shape);
                    run_case<__nv_bfloat16>(shape);
                }
}

void groups_and_flags()
{
    for (int group_size : {32, 64, 128})
        for (int k : {8, 136, 576})
            run_case<__half>({.rows = 9,
                .n = 20,
                .k = k,
                .group_size = group_size,
                .asymmetric = k != 136,
                .flag_type = FlagType::kInt32,
                .river_rows = 0x1f});
}

void packed_banks()
{
    for (int group_size : {64, 128})
        for (int k : {8, 136, 576})
            for (Banks banks : {Banks::kByFlag, Banks::kRiver})
                run_case<__nv_bfloat16>({.rows = 9,
                    .n = 44,
                    .k = k,
                    .group_size = group_size,
                    .pre_scale = k == 136,
                    .silu_mul = k == 576,
                    .banks = banks,
                    .river_rows = 0x1f,
                    .packed = true});
}

// k so long that only a part of the weight fits the slice that is dequantised at a time.
void a_weight_of_several_slices()
{
    run_case<__half>({.rows = 9,
        .n = 132,
        .k = 131072,
        .group_size = 128,
        .asymmetric = false,
        .banks = Banks::kRiver});
}

void the_other_bank_is_not_touched()
{
    PrefillCase<__half> river({.rows = 12, .n = 16, .k = 64, .banks = Banks::kRiver});
    river.weight.forbid();
    river.flags.forbid();
    river.run();
    river.compare();
    PrefillCase<__half> backbone({.rows = 12, .n = 16, .k = 64, .banks = Banks::kBackbone});
    for (Memory* memory :
        {&backbone.qweight, &backbone.scales, &backbone.zero_points, &backbone.flags})
        memory->forbid();
    backbone.run();
    backbone.compare();
}

void a_small_workspace_is_refused()
{
    PrefillCase<__half> c({.rows = 12, .n = 16, .k = 64});
    --c.params.workspace_bytes;
    char const* text = explain_linear(c.params);
    check(text != nullptr && std::strstr(text, "workspace") != nullptr, "workspace");
    check(launch_linear(c.params, nullptr) == cudaErrorInvalidValue, "workspace: launch");
}
} // namespace

int main(int argc, char** argv)
{
    set_thread_order(argc > 1 ? std::atoi(argv[1]) : 0);
    bool const full = is_full(argc, argv);
    mixed_rows_and_single_banks();
    groups_and_flags();
    packed_banks();
    if (full)
        a_weight_of_several_slices();
    the_other_bank_is_not_touched();
    a_small_workspace_is_refused();
    return report("linear_prefill");
}
