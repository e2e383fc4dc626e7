// The decode kernel of linear against double precision: shapes, groups, flags, fused forms, and
// that a bank which no row is on isn't touched.
#include <cstring>

#include "linear_case.h"

using namespace river;
using namespace river::test;

namespace
{
uint64_t seed = 1;

template <typename T>
void run_case(LinearShape const& shape)
{
    LinearCase<T> c(shape, ++seed);
    c.run();
    c.compare();
}

void run_both(LinearShape const& shape)
{
    run_case<__half>(shape);
    run_case<__nv_bfloat16>(shape);
}

uint32_t all_rows(int rows)
{
    return rows >= 32 ? 0xffffffffU : (1U << rows) - 1U;
}

void every_flag_pattern_takes_each_row_through_its_bank()
{
    for (int rows : {1, 2, 3, 4})
        for (uint32_t flags = 0; flags <= all_rows(rows); ++flags)
            run_case<__half>({.rows = rows,
                .n = 24,
                .k = 96,
                .group_size = 32,
                .flag_type = flags % 2 ? FlagType::kInt32 : FlagType::kBool,
                .river_rows = flags});
    for (uint32_t flags : {0x00U, 0xffU, 0x01U, 0x80U, 0xaaU, 0x3cU})
        run_case<__nv_bfloat16>({.rows = 8, .n = 24, .k = 96, .river_rows = flags});
}

void groups_and_part_filled_groups()
{
    for (int group_size : {32, 64, 128})
        for (int k : {8, 40, 64, 136, 576})
            for (bool asymmetric : {false, true})
            {
                LinearShape shape{.rows = 2,
                    .n = 16,
                    .k = k,
                    .group_size = group_size,
                    .asymmetric = asymmetric,
                    .pre_scale = asymmetric,
                    .river_rows = 2};
                run_case<__half>(shape);
                shape.river_rows = 3;
                run_case<__nv_bfloat16>(shape);
            }
}

void outputs_that_do_not_fill_a_tile()
{
    for (int n : {1, 7, 16, 17, 33})
        run_both({.rows = 3, .n = n, .k = 128, .bias = true, .river_rows = 5});
}

void fused_forms()
{
    for (uint32_t flags : {0U, 7U, 2U})
        for (bool norm : {false, true})
            for (int form : {0, 1, 2}) // plain, residual, silu
                run_both({.rows = 3,
                    .n = 40,
                    .k = 192,
                    .pre_scale = true,
                    .bias = true,
                    .norm = norm,
                    .silu_mul = form == 2,
                    .residual = form == 1,
                    .river_rows = flags});
}

void residual_may_be_the_output()
{
    LinearCase<__half> c({.rows = 2, .n = 40, .k = 128, .residual = true, .river_rows = 1}, ++seed);
    std::memcpy(c.y.as<char>(), c.residual.as<char>(), c.y.bytes());
    c.params.residual = c.params.y;
    c.run();
    c.compare();
}

void more_rows_than_a_tile_by_row_tiles()
{
    LinearCase<__half> c(
        {.rows = 19, .n = 24, .k = 96, .norm = true, .river_rows = 0xa5c3}, ++seed);
    c.params.prefill = Prefill::kRowTiles;
    c.run();
    c.compare();
}

// A river launch must read no backbone byte, and the other way round: the other bank is NaN first,
// then not accessible at all.
template <typename T>
void the_other_bank_is_not_touched(bool river, Banks banks)
{
    LinearCase<T> c({.rows = 3,
                        .n = 40,
                        .k = 576,
                        .group_size = 128,
                        .pre_scale = true,
                        .norm = true,
                        .banks = banks,
                        .river_rows = river ? 7U : 0U},
        ++seed);
    for (Memory* memory : river
            ? std::vector<Memory*>{&c.weight}
            : std::vector<Memory*>{&c.qweight, &c.scales, &c.zero_points, &c.pre_scale})
    {
        memory->poison();
        memory->forbid();
    }
    if (banks != Banks::kByFlag)
        c.flags.forbid();
    c.run();
    c.compare();
}

#if defined(RIVER_CPU_SHIM)
void a_forbidden_bank_that_is_needed_faults()
{
    auto const ends = [](bool river)
    {
        return status_of_child([=]
        {
            LinearCase<__half> c({.rows = 1, .river_rows = river ? 1U : 0U}, 1);
            (river ? c.qweight : c.weight).forbid();
            c.run();
        });
    };
    check(ends(false) != 0, "a read of the forbidden backbone must fault");
    check(ends(true) != 0, "a read of the forbidden river must fault");
}
#endif

void shapes_of_real_models(bool full)
{
    struct
    {
        int n, k, sliced;
    } const shapes[] = {{576, 576, 2}, {960, 576, 2}, {576, 1536, 2}, {3072, 576, 2},
        {49152, 576, 2}, {4096, 14336, 1}, {28672, 4096, 1}};
    for (auto const& s : shapes)
    {
        if (!full && s.k > 4096)
            continue;
        bool const silu = s.n == 28672 || s.n == 3072;
        run_case<__half>({.rows = 1,
            .n = s.n,
            .k = s.k,
            .norm = silu,
            .silu_mul = silu,
            .river_rows = 1,
            .sliced_blocks = s.sliced});
        run_case<__nv_bfloat16>(
            {.rows = 1, .n = s.n, .k = s.k, .group_size = 128, .sliced_blocks = s.sliced});
        run_case<__half>({.rows = 8,
            .n = s.n,
            .k = s.k,
            .group_size = 128,
            .asymmetric = false,
            .pre_scale = true,
            .norm = silu,
            .silu_mul = silu,
            .river_rows = 0x5a,
            .sliced_blocks = s.sliced});
    }
}

void bad_parameters_are_refused_with_a_reason()
{
    struct
    {
        char const* word;
        std::function<void(LinearParams&)> spoil;
    } const cases[] = {
        {"k must", [](LinearParams& p) { p.k = 60; }},
        {"rows must", [](LinearParams& p) { p.rows = 0; }},
        {"n must", [](LinearParams& p) { p.n = 0; }},
        {"group_size", [](LinearParams& p) { p.river.group_size = 48; }},
        {"use_river", [](LinearParams& p) { p.use_river = nullptr; }},
        {"backbone", [](LinearParams& p) { p.weight = nullptr; }},
        {"qweight", [](LinearParams& p) { p.river.qweight = nullptr; }},
        {"even", [](LinearParams& p) { p.silu_mul = true, p.n = 15; }},
        {"exclude", [](LinearParams& p) { p.silu_mul = true, p.residual = p.x; }},
        {"aligned", [](LinearParams& p) { p.x = static_cast<char const*>(p.x) + 2; }},
        {"workspace", [](LinearParams& p) { p.rows = 9; }},
    };
    for (auto const& bad : cases)
    {
        LinearCase<__half> c(LinearShape{}, 1);
        bad.spoil(c.params);
        char const* text = explain_linear(c.params);
        check(text != nullptr && std::strstr(text, bad.word) != nullptr, bad.word);
        check(launch_linear(c.params, nullptr) == cudaErrorInvalidValue, bad.word);
    }
}
} // namespace

int main(int argc, char** argv)
{
    bool const full = is_full(argc, argv);
    set_thread_order(argc > 1 ? std::atoi(argv[1]) : 0);
    every_flag_pattern_takes_each_row_through_its_bank();
    groups_and_part_filled_groups();
    outputs_that_do_not_fill_a_tile();
    fused_forms();
    residual_may_be_the_output();
    more_rows_than_a_tile_by_row_tiles();
    for (Banks banks : {Banks::kByFlag, Banks::kRiver})
        the_other_bank_is_not_touched<__half>(true, banks);
    for (Banks banks : {Banks::kByFlag, Banks::kBackbone})
        the_other_bank_is_not_touched<__nv_bfloat16>(false, banks);
    shapes_of_real_models(full);
    bad_parameters_are_refused_with_a_reason();
#if defined(RIVER_CPU_SHIM)
    a_forbidden_bank_that_is_needed_faults();
#endif
    return report("linear");
}
