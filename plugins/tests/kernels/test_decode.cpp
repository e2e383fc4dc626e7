// The decode kernel over a packed river bank against double precision: every variant, groups, rows,
// both activations, both banks in one launch, and the layout of packed.h nibble by nibble.
#include <cstring>

#include "linear_case.h"
#include "packed.h"

using namespace river;
using namespace river::test;

namespace
{
uint64_t seed = 1;

template <typename T>
void run_case(LinearShape shape)
{
    shape.packed = true;
    LinearCase<T> c(shape, ++seed);
    c.run();
    c.compare();
}

void run_both(LinearShape const& shape)
{
    run_case<__half>(shape);
    run_case<__nv_bfloat16>(shape);
}

// Where the description says that a code lies.
int described_code(uint32_t const* tile, PackedShape const& s, int output, int k)
{
    int const panel = k / 512, chunk = k % 512 / 64, t = k % 64 / 16, word = k % 16 / 4;
    static int const nibbles[4] = {0, 4, 2, 6}; // of k % 4, for output g
    int const lane = 4 * (output % 8) + t;
    uint32_t const* const piece =
        tile + (panel * s.panel_bytes() + s.scale_bytes() + chunk * kChunkBytes) / 4;
    return piece[4 * lane + word] >> (4 * (nibbles[k % 4] + output / 8)) & 15;
}

void the_packed_layout_is_the_described_one()
{
    for (int group_size : {64, 128})
        for (int k : {40, 576, 1088})
        {
            LinearCase<__half> c(
                {.n = 21, .k = k, .group_size = group_size, .packed = true}, ++seed);
            PackedShape const s{21, k, group_size};
            int wrong = 0;
            for (int n = 0; n < 32; ++n)
                for (int at = 0; at < s.chunks() * 64; ++at)
                {
                    auto const* const tile =
                        c.packed.template as<uint32_t>() + n / 16 * s.tile_bytes() / 4;
                    bool const inside = n < 21 && at < k;
                    size_t const group =
                        static_cast<size_t>(n) * c.shape.groups() + at / group_size;
                    int const byte = inside
                        ? c.qweight
                              .template as<uint8_t>()[(group * group_size + at % group_size) / 2]
                        : 0;
                    wrong += described_code(tile, s, n % 16, at) != (byte >> (at % 2 * 4) & 15);
                    if (!inside)
                        continue;
                    int const chunk = at % 512 / 64;
                    int const lane = 4 * (n % 8) + chunk / 2;
                    int const word = group_size == 64 ? 4 * lane + n % 16 / 8 * 2 + chunk % 2
                                                      : 2 * lane + n % 16 / 8;
                    auto const* const halves = reinterpret_cast<__half const*>(
                        tile + at / 512 * s.panel_bytes() / 4 + word);
                    wrong += __half2float(halves[0]) != get<__half>(c.scales, group);
                    wrong += __half2float(halves[1]) != c.zero_points.template as<uint8_t>()[group];
                }
            check(wrong == 0, "packed layout: " + std::to_string(wrong) + " places differ");
        }
}

void every_variant_for_all_rows_and_groups()
{
    for (int variant = 0; variant < linear_variants(); ++variant)
        for (int rows = 1; rows <= 8; ++rows)
            for (bool int8 : {false, true})
            {
                LinearShape shape{.rows = rows,
                    .n = 16 * 5,
                    .k = rows % 2 ? 1600 : 1024,
                    .group_size = rows % 3 ? 64 : 128,
                    .pre_scale = rows == 2,
                    .norm = rows % 4 == 3,
                    .banks = Banks::kRiver,
                    .int8 = int8,
                    .variant = variant};
                run_both(shape);
            }
}

void every_flag_pattern_takes_each_row_through_its_bank()
{
    for (int rows : {1, 2, 3})
        for (uint32_t flags = 0; flags < (1U << rows); ++flags)
            run_case<__half>({.rows = rows,
                .n = 24,
                .k = 192,
                .flag_type = flags % 2 ? FlagType::kInt32 : FlagType::kBool,
                .river_rows = flags,
                .int8 = flags % 3 == 1,
                .early = rows == 2});
    for (uint32_t flags : {0x00U, 0xffU, 0x01U, 0x80U, 0xaaU})
        run_case<__nv_bfloat16>(
            {.rows = 8, .n = 24, .k = 200, .river_rows = flags, .int8 = true, .early = true});
}

void groups_and_part_filled_groups()
{
    for (int group_size : {64, 128})
        for (int k : {8, 40, 64, 136, 520, 576, 1096})
            for (bool asymmetric : {false, true})
                for (bool int8 : {false, true})
                    run_case<__half>({.rows = 1 + k % 3,
                        .n = 16,
                        .k = k,
                        .group_size = group_size,
                        .asymmetric = asymmetric,
                        .pre_scale = asymmetric,
                        .river_rows = k % 5 ? 7U : 1U,
                        .int8 = int8});
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
                    .n = 64,
                    .k = 192,
                    .pre_scale = true,
                    .bias = true,
                    .norm = norm,
                    .silu_mul = form == 2,
                    .residual = form == 1,
                    .river_rows = flags,
                    .int8 = norm});
}

// What one linear leaves, the next one's norm takes: as if it had measured x itself.
void sums_of_squares_replace_the_measurement()
{
    for (int parts : {1, 3, 256})
    {
        LinearCase<__nv_bfloat16> c(
            {.rows = 3, .n = 48, .k = 320, .norm = true, .banks = Banks::kRiver, .packed = true},
            ++seed);
        Memory sums(4UL * 3 * parts);
        for (int row = 0; row < 3; ++row)
            for (int part = 0; part < parts; ++part)
            {
                float sum = 0.F;
                for (int k = part; k < 320; k += parts)
                    sum += static_cast<float>(std::pow(get<__nv_bfloat16>(c.x, row * 320 + k), 2));
                sums.as<float>()[row * parts + part] = sum;
            }
        c.params.sum_squares = sums.as<float>();
        c.params.sum_squares_parts = parts;
        c.run();
        c.compare();
    }
}

void sums_of_squares_of_the_rounded_outputs()
{
    for (uint32_t flags : {7U, 0U, 5U})
    {
        LinearCase<__half> c(
            {.rows = 3, .n = 100, .k = 128, .residual = true, .river_rows = flags, .packed = true},
            ++seed);
        Memory sums(4UL * 3 * kSumSquaresParts);
        sums.poison();
        c.params.sum_squares_out = sums.as<float>();
        c.run();
        c.compare();
        for (int row = 0; row < 3; ++row)
        {
            double expected = 0.0;
            double got = 0.0;
            for (int n = 0; n < 100; ++n)
                expected += std::pow(get<__half>(c.y, row * 100 + n), 2);
            for (int part = 0; part < kSumSquaresParts; ++part)
                got += sums.as<float>()[row * kSumSquaresParts + part];
            check(std::fabs(got / expected - 1.0) < 1e-5, "sum of squares of a row");
        }
    }
}

template <typename T>
void the_other_bank_is_not_touched(bool river, Banks banks, bool early)
{
    LinearCase<T> c({.rows = 3,
                        .n = 40,
                        .k = 576,
                        .group_size = 128,
                        .pre_scale = true,
                        .norm = true,
                        .banks = banks,
                        .river_rows = river ? 7U : 0U,
                        .packed = true,
                        .early = early},
        ++seed);
    for (Memory* memory :
        river ? std::vector<Memory*>{&c.weight} : std::vector<Memory*>{&c.packed, &c.pre_scale})
    {
        memory->poison();
        memory->forbid();
    }
    if (banks != Banks::kByFlag)
        c.flags.forbid();
    c.run();
    c.compare();
}

// Rounding x to 8 bits costs less than one part in a hundred.
void eight_bit_activations_are_close_to_exact_ones()
{
    LinearCase<__nv_bfloat16> c(
        {.rows = 2, .n = 64, .k = 1024, .banks = Banks::kRiver, .packed = true}, ++seed);
    c.params.river.int8_activations = true;
    c.run();
    std::vector<double> got, expected;
    for (int i = 0; i < 2 * 64; ++i)
    {
        got.push_back(get<__nv_bfloat16>(c.y, i));
        expected.push_back(c.reference(i / 64, i % 64));
    }
    double const error = relative_error(got, expected);
    check(error < 1.2e-2 && error > 1e-4, "int8 activations: " + std::to_string(error));
}

void shapes_of_real_models(bool full)
{
    struct
    {
        int n, k;
    } const shapes[] = {{576, 576}, {576, 1536}, {3072, 576}, {128, 14336}};
    for (auto const& s : shapes)
        for (int rows : {1, 8})
        {
            if (!full && s.k > 1000)
                continue;
            run_case<__nv_bfloat16>({.rows = rows,
                .n = s.n,
                .k = s.k,
                .norm = s.k == 576,
                .silu_mul = s.n == 3072,
                .river_rows = 0x5a,
                .int8 = rows == 1});
        }
}

void a_bank_without_packing_is_refused_for_groups_of_32()
{
    check(packed_river_bytes(64, 64, 32) == 0, "groups of 32 have no packed form");
    RiverBank bank;
    bank.group_size = 32;
    check(pack_river(bank, 64, 64, nullptr, nullptr) == cudaErrorInvalidValue, "pack of 32");
}

// A tuned variant is taken for its shape alone, and gives what any other gives.
void a_tuned_variant_becomes_the_default()
{
    check(!set_linear_variant(48, 192, 64, 1, false, linear_variants()), "no such variant");
    for (int variant = 0; variant < linear_variants(); ++variant)
    {
        check(set_linear_variant(48, 192, 64, 1, false, variant), "a variant");
        run_case<__half>({.n = 48, .k = 192, .banks = Banks::kRiver});
        run_case<__half>({.rows = 2, .n = 48, .k = 192, .banks = Banks::kRiver});
    }
}

// At tau = +inf an engine is the plain model: a linear whose flags all name the backbone gives the
// bits of the same linear without flags and without a river.
template <typename T>
void flags_for_the_backbone_are_the_plain_linear(LinearShape shape)
{
    shape.packed = shape.int8 = true;
    LinearCase<T> c(shape, ++seed);
    c.run();
    c.compare();
    size_t const count = static_cast<size_t>(shape.rows) * shape.width();
    std::vector<uint16_t> const flagged(
        c.y.template as<uint16_t>(), c.y.template as<uint16_t>() + count);
    c.y.poison();
    c.params.banks = Banks::kBackbone;
    c.params.use_river = nullptr;
    c.params.river = {};
    check(finished(launch_linear(c.params, nullptr)), shape.name() + ": plain launch");
    check(std::memcmp(flagged.data(), c.y.template as<uint16_t>(), 2 * count) == 0,
        shape.name() + ": flags for the backbone and no flags differ in bits");
}

void a_plain_linear_has_the_bits_of_one_with_flags()
{
    for (int rows : {1, 2, 3, 4, 5, 8})
        for (int form : {0, 1, 2}) // plain, residual, norm and silu
            for (int k : {200, 1600})
            {
                LinearShape const shape{.rows = rows,
                    .n = 96,
                    .k = k,
                    .bias = form == 1,
                    .norm = form != 1,
                    .silu_mul = form == 2,
                    .residual = form == 1};
                flags_for_the_backbone_are_the_plain_linear<__half>(shape);
                flags_for_the_backbone_are_the_plain_linear<__nv_bfloat16>(shape);
            }
}

void bad_parameters_are_refused_with_a_reason()
{
    struct
    {
        char const* word;
        std::function<void(LinearParams&)> spoil;
    } const cases[] = {
        {"variant", [](LinearParams& p) { p.variant = 99; }},
        {"64 or 128", [](LinearParams& p) { p.river.group_size = 32; }},
        {"multiple of 16", [](LinearParams& p) { p.silu_mul = true, p.n = 40; }},
        {"sum_squares_parts", [](LinearParams& p)
    { p.sum_squares = static_cast<float const*>(p.x), p.sum_squares_parts = 0; }},
        {"exclude", [](LinearParams& p)
    { p.silu_mul = true, p.n = 64, p.sum_squares_out = static_cast<float*>(p.y); }},
        {"aligned",
            [](LinearParams& p) { p.river.packed = static_cast<char const*>(p.river.packed) + 2; }},
        {"shared memory", [](LinearParams& p) { p.k = 131072; }},
    };
    for (auto const& bad : cases)
    {
        LinearCase<__half> c({.packed = true}, 1);
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
    the_packed_layout_is_the_described_one();
    every_flag_pattern_takes_each_row_through_its_bank();
    groups_and_part_filled_groups();
    outputs_that_do_not_fill_a_tile();
    fused_forms();
    sums_of_squares_replace_the_measurement();
    sums_of_squares_of_the_rounded_outputs();
    for (bool early : {false, true})
    {
        the_other_bank_is_not_touched<__half>(true, Banks::kByFlag, early);
        the_other_bank_is_not_touched<__nv_bfloat16>(false, Banks::kByFlag, early);
    }
    the_other_bank_is_not_touched<__half>(true, Banks::kRiver, false);
    eight_bit_activations_are_close_to_exact_ones();
    a_bank_without_packing_is_refused_for_groups_of_32();
    a_plain_linear_has_the_bits_of_one_with_flags();
    a_tuned_variant_becomes_the_default();
    bad_parameters_are_refused_with_a_reason();
    if (full)
        every_variant_for_all_rows_and_groups();
    shapes_of_real_models(full);
    return report("decode");
}
