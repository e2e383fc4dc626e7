// The persistent kernel's prototype: o, gate_up and down of a layer in one launch, each stage against
// double precision over what the stage before it wrote.
#include <cstring>

#include "linear_case.h"
#include "persistent.cuh"

using namespace river;
using namespace river::test;

namespace
{
uint64_t seed = 71;

struct ChainShape
{
    int hidden = 128, inner = 192, heads = 64; // outputs of o, of gate_up's halves, inputs of o
    int group_size = 64;
    bool on_river = true;
    bool int8 = true;
    bool bias = false;
    int blocks = 3;
};

// o with residual -> norm, gate_up, SiLU -> down with residual
template <typename T>
class Chain
{
public:
    ChainShape const shape;
    LinearCase<T> o, gate_up, down;
    Memory squares, counter;

    explicit Chain(ChainShape const& s)
        : shape(s)
        , o(linear(s, s.hidden, s.heads, 0), ++seed)
        , gate_up(linear(s, 2 * s.inner, s.hidden, 1), ++seed)
        , down(linear(s, s.hidden, s.inner, 2), ++seed)
        , squares(4UL * kSumSquaresParts)
        , counter(sizeof(uint32_t))
    {
        squares.poison();
        *counter.as<uint32_t>() = 0;
        gate_up.params.x = o.params.y;
        down.params.x = gate_up.params.y;
        down.params.residual = o.params.y;
        o.params.sum_squares_out = squares.as<float>();
        gate_up.params.sum_squares = squares.as<float>();
        gate_up.params.sum_squares_parts = kSumSquaresParts;
        gate_up.params.use_river = down.params.use_river = o.params.use_river;
    }

    cudaError_t launch()
    {
        LinearParams const linears[] = {o.params, gate_up.params, down.params};
        return launch_persistent(linears, 3, shape.blocks, counter.as<uint32_t>(), nullptr);
    }

    void run_and_compare()
    {
        check(finished(launch()), "persistent: launch");
        check(*counter.as<uint32_t>() == 0, "persistent: the counter is left at zero");
        copy(gate_up.x, o.y);
        copy(down.x, gate_up.y);
        copy(down.residual, o.y);
        o.compare();
        gate_up.compare();
        down.compare();
    }

private:
    static LinearShape linear(ChainShape const& s, int n, int k, int place)
    {
        return {.n = n,
            .k = k,
            .group_size = s.group_size,
            .bias = s.bias,
            .norm = place == 1,
            .silu_mul = place == 1,
            .residual = place != 1,
            .river_rows = s.on_river ? 1U : 0U,
            .packed = true,
            .int8 = s.int8};
    }
    static void copy(Memory& to, Memory& from)
    {
        check(to.bytes() == from.bytes(), "persistent: a stage reads what the last one wrote");
        std::memcpy(to.as<void>(), from.as<void>(), to.bytes());
    }
};

template <typename T>
void run_case(ChainShape const& shape)
{
    Chain<T>(shape).run_and_compare();
}

void both_banks_types_and_activations()
{
    for (bool on_river : {true, false})
        for (bool int8 : {true, false})
        {
            run_case<__half>({.on_river = on_river, .int8 = int8});
            run_case<__nv_bfloat16>({.group_size = 128, .on_river = on_river, .int8 = int8});
        }
}

// Fewer tiles than blocks, part filled tiles and panels, k beyond a panel, every count of blocks.
void shapes_and_blocks(bool full)
{
    for (int blocks : full ? std::vector<int>{1, 2, 5, 16} : std::vector<int>{1, 5})
        for (bool on_river : {true, false})
        {
            run_case<__half>({.hidden = 72,
                .inner = 48,
                .heads = 40,
                .on_river = on_river,
                .bias = true,
                .blocks = blocks});
            run_case<__nv_bfloat16>(
                {.hidden = 16, .inner = 16, .on_river = on_river, .blocks = blocks});
            if (full && blocks == 5)
                run_case<__half>({.hidden = 576,
                    .inner = 1536,
                    .heads = 576,
                    .on_river = on_river,
                    .blocks = blocks});
        }
}

void a_second_launch_gives_the_same_bits()
{
    Chain<__half> c(ChainShape{});
    c.run_and_compare();
    std::vector<char> const before(c.down.y.as<char>(), c.down.y.as<char>() + c.down.y.bytes());
    c.down.y.poison();
    c.run_and_compare();
    check(std::memcmp(before.data(), c.down.y.as<char>(), before.size()) == 0,
        "persistent: two launches agree in bits");
}

void the_other_bank_is_not_touched(bool river)
{
    Chain<__half> c({.on_river = river});
    for (LinearCase<__half>* linear : {&c.o, &c.gate_up, &c.down})
    {
        Memory& other = river ? linear->weight : linear->packed;
        other.poison();
        other.forbid();
    }
    c.run_and_compare();
}

void what_is_no_chain_is_refused()
{
    Chain<__half> c(ChainShape{});
    c.gate_up.params.rows = 2;
    check(c.launch() == cudaErrorInvalidValue, "two rows");
    c.gate_up.params.rows = 1;
    c.down.params.river.packed = nullptr;
    check(c.launch() == cudaErrorInvalidValue, "a bank that is not packed");
    c.down.params.river.packed = c.down.packed.as<void>();
    c.down.params.banks = Banks::kRiver;
    check(c.launch() == cudaErrorInvalidValue, "another choice of banks");
}
} // namespace

int main(int argc, char** argv)
{
    set_thread_order(argc > 1 ? std::atoi(argv[1]) : 0);
    both_banks_types_and_activations();
    shapes_and_blocks(is_full(argc, argv));
    a_second_launch_gives_the_same_bits();
    the_other_bank_is_not_touched(true);
    the_other_bank_is_not_touched(false);
    what_is_no_chain_is_refused();
    return report("persistent");
}
