// The gate against double precision: score, sticky flags, exit layers, scopes, fused residual add.
#include <algorithm>
#include <cstring>

#include "testing.h"

using namespace river;
using namespace river::test;

namespace
{
uint64_t seed = 7;

struct GateShape
{
    int batch = 1;
    int seq = 1;
    int hidden = 64;
    int scope = -1; // -1: no pointer, which is the token scope
    bool residual = false;
    bool in_place = false;    // h_out is residual; flags and layers are updated where they are
    int direction = 0;        // 0 none, 1 given, 2 given but use_direction is false
    bool first_layer = false; // no exited, no exit_layer
    bool pinned_next = false;
    double quantile = 0.5; // tau lies at this place among the scores; < 0 is -inf, > 1 is +inf
    FlagType flag_type = FlagType::kBool;

    std::string name() const
    {
        char text[160];
        std::snprintf(text, sizeof(text),
            "gate batch=%d seq=%d hidden=%d scope=%d%s%s direction=%d%s%s quantile=%g", batch, seq,
            hidden, scope, residual ? " residual" : "", in_place ? " in_place" : "", direction,
            first_layer ? " first" : "", pinned_next ? " pinned" : "", quantile);
        return text;
    }
};

template <typename T>
class GateCase
{
public:
    GateShape const shape;
    int const rows;
    GateParams params;
    Memory h_in, delta, residual, h_out, direction, scalars, exited, exit_layer, exited_out,
        exit_layer_out, use_river, score, sum_squares, workspace;

    explicit GateCase(GateShape const& s)
        : shape(s)
        , rows(s.batch * s.seq)
        , h_in(2UL * rows * s.hidden)
        , delta(2UL * rows * s.hidden)
        , residual(2UL * rows * s.hidden)
        , h_out(2UL * rows * s.hidden)
        , direction(4UL * s.hidden)
        , scalars(64)
        , exited(4UL * rows)
        , exit_layer(4UL * rows)
        , exited_out(4UL * rows)
        , exit_layer_out(4UL * rows)
        , use_river(4UL * rows)
        , score(4UL * rows)
        , sum_squares(4UL * rows)
        , workspace(workspace_bytes(s))
    {
        Random random(++seed);
        for (int row = 0; row < rows; ++row)
            for (int i = 0; i < s.hidden; ++i)
            {
                size_t const at = static_cast<size_t>(row) * s.hidden + i;
                // The quarters of a row differ, so that a lost part moves the cosine.
                double const x = random.normal() + (4 * i / s.hidden == row % 4 ? 1.5 : 0.0);
                put<T>(h_in, at, x);
                put<T>(delta, at, 0.7 * random.normal() + (s.residual ? 0.0 : x));
                put<T>(residual, at, x + 0.3 * random.normal());
            }
        for (int i = 0; i < s.hidden; ++i)
            direction.as<float>()[i] = static_cast<float>(random.normal() + 0.5);
        for (int row = 0; row < rows; ++row)
        {
            store_flag(exited.as<void>(), s.flag_type, row, row % 3 == 1);
            exit_layer.as<int32_t>()[row] = row % 3 == 1 ? 2 : kLayers;
        }
        for (Memory* out : {&h_out, &exited_out, &exit_layer_out, &use_river, &score, &sum_squares})
            out->poison();
        std::memset(workspace.as<char>(), 0, workspace.bytes());
        compute_reference();
        set_params();
    }

    void run_and_compare(int times = 1)
    {
        std::string const name = shape.name();
        char const* reason = explain_gate(params);
        check(reason == nullptr, name + ": " + (reason == nullptr ? "" : reason));
        for (int i = 0; i < times; ++i)
            check(finished(launch_gate(params, nullptr)), name + ": launch");
        check(*workspace.as<uint32_t>() == 0, name + ": the counter must be left at zero");
        std::vector<double> got;
        std::vector<double> expected;
        for (size_t i = 0; shape.residual && i < static_cast<size_t>(rows) * shape.hidden; ++i)
        {
            got.push_back(Numeric<T>::load(params.h_out, i));
            expected.push_back(out_[i]);
        }
        check(!shape.residual || relative_error(got, expected) <= tolerance<T>(), name + ": h_out");
        for (int row = 0; row < rows; ++row)
        {
            double const error = std::fabs(params.score[row] - scores_[row]);
            check(error <= 1e-5, name + ": score is off by " + std::to_string(error));
            double const squares = params.sum_squares[row] / squares_[row] - 1.0;
            check(std::fabs(squares) <= 1e-5, name + ": sum of squares");
            bool const before = !shape.first_layer && row % 3 == 1;
            bool const now = before || passed_[row];
            check(load_flag(params.exited_out, shape.flag_type, row) == now, name + ": exited");
            int const layer = before ? 2 : passed_[row] ? kLayer : kLayers;
            check(params.exit_layer_out[row] == layer, name + ": exit_layer");
            check(load_flag(params.use_river_next, shape.flag_type, row)
                    == (now && !shape.pinned_next),
                name + ": use_river_next");
        }
    }

private:
    static constexpr int kLayer = 5;
    static constexpr int kLayers = 9;

    static size_t workspace_bytes(GateShape const& s)
    {
        GateParams p;
        p.batch = s.batch;
        p.seq = s.seq;
        return gate_workspace_bytes(p);
    }

    void compute_reference()
    {
        for (int row = 0; row < rows; ++row)
        {
            double dot = 0.0;
            double a = 0.0;
            double b = 0.0;
            for (int i = 0; i < shape.hidden; ++i)
            {
                size_t const at = static_cast<size_t>(row) * shape.hidden + i;
                double exact = get<T>(delta, at);
                if (shape.residual)
                    exact += get<T>(residual, at);
                out_.push_back(exact);
                Numeric<T>::store(h_out.as<void>(), at, static_cast<float>(exact));
                double const out = get<T>(h_out, at); // the score is of what the next layer sees
                double const reference =
                    shape.direction == 1 ? direction.as<float>()[i] : get<T>(h_in, at);
                dot += reference * out;
                a += reference * reference;
                b += out * out;
            }
            scores_.push_back(dot / std::sqrt(a * b));
            squares_.push_back(b);
        }
        h_out.poison();
        std::vector<double> least = scores_; // of each row's span
        int const span = shape.scope == kSequenceScope ? shape.seq
            : shape.scope == kBatchScope               ? rows
                                                       : 1;
        for (int row = 0; row < rows; ++row)
            least[row] = *std::min_element(
                scores_.begin() + row / span * span, scores_.begin() + row / span * span + span);
        std::vector<double> sorted = least;
        std::sort(sorted.begin(), sorted.end());
        double const place = shape.quantile * rows;
        double tau = shape.quantile < 0 ? -INFINITY : INFINITY;
        if (shape.quantile >= 0 && shape.quantile < 1) // between two scores, so that none is close
        {
            size_t const i = static_cast<size_t>(place);
            double const below = i == 0 ? sorted[0] - 0.1 : sorted[i - 1];
            tau = (below + sorted[i]) / 2;
            if (sorted[i] - below < 1e-4)
                tau = sorted[0] - 0.05;
        }
        scalars.as<float>()[0] = static_cast<float>(tau);
        for (int row = 0; row < rows; ++row)
            passed_.push_back(least[row] > tau);
    }

    void set_params()
    {
        params.type = type_of<T>();
        params.flag_type = shape.flag_type;
        params.batch = shape.batch;
        params.seq = shape.seq;
        params.hidden = shape.hidden;
        params.layer = kLayer;
        params.num_layers = kLayers;
        params.h_in = h_in.as<void>();
        params.delta = delta.as<void>();
        params.residual = shape.residual ? residual.as<void>() : nullptr;
        params.h_out = shape.in_place ? residual.as<void>() : h_out.as<void>();
        auto* bytes = scalars.as<unsigned char>();
        bytes[4] = shape.direction == 1;
        bytes[5] = shape.pinned_next;
        scalars.as<int32_t>()[2] = shape.scope;
        params.direction = shape.direction != 0 ? direction.as<float>() : nullptr;
        params.use_direction = reinterpret_cast<bool*>(bytes + 4);
        params.tau = scalars.as<float>();
        params.pinned_next = reinterpret_cast<bool*>(bytes + 5);
        params.scope = shape.scope < 0 ? nullptr : scalars.as<int32_t>() + 2;
        params.exited = shape.first_layer ? nullptr : exited.as<void>();
        params.exit_layer = shape.first_layer ? nullptr : exit_layer.as<int32_t>();
        params.exited_out = shape.in_place ? exited.as<void>() : exited_out.as<void>();
        params.exit_layer_out =
            shape.in_place ? exit_layer.as<int32_t>() : exit_layer_out.as<int32_t>();
        params.use_river_next = use_river.as<void>();
        params.score = score.as<float>();
        params.sum_squares = sum_squares.as<float>();
        params.workspace = workspace.as<void>();
        params.workspace_bytes = workspace.bytes();
    }

    std::vector<double> out_, scores_, squares_;
    std::vector<bool> passed_;
};

template <typename T>
void run_case(GateShape const& shape, int times = 1)
{
    GateCase<T>(shape).run_and_compare(times);
}

void hidden_sizes_of_real_models(bool full)
{
    for (int hidden : full ? std::vector<int>{8, 576, 960, 2048, 4096, 8192, 16400}
                           : std::vector<int>{2056, 16400})
        for (bool residual : {false, true})
        {
            run_case<__half>({.batch = 3, .hidden = hidden, .residual = residual});
            run_case<__nv_bfloat16>({.batch = 3,
                .hidden = hidden,
                .residual = residual,
                .direction = 1,
                .flag_type = FlagType::kInt32});
        }
}

void scopes_decide_over_their_rows()
{
    for (int scope : {-1, 0, 1, 2})
        for (double quantile : {0.2, 0.5, 0.9, -1.0, 2.0})
            for (bool in_place : {false, true})
                run_case<__half>({.batch = 3,
                    .seq = 5,
                    .hidden = 128,
                    .scope = scope,
                    .residual = true,
                    .in_place = in_place,
                    .quantile = quantile});
    run_case<__half>({.batch = 2, .seq = 70, .hidden = 16, .scope = 1, .quantile = 0.5});
    run_case<__half>({.batch = 70, .seq = 1, .hidden = 16, .scope = 2, .quantile = 0.0});
    run_case<__half>({.batch = 11, .seq = 1, .hidden = 16, .scope = 1, .quantile = 0.4});
}

void a_launch_can_be_repeated()
{
    run_case<__half>({.batch = 4, .hidden = 64, .scope = 2, .quantile = 0.0}, 3);
}

void the_first_layer_pins_and_directions()
{
    for (bool pinned : {false, true})
        for (int direction : {0, 1, 2})
            run_case<__nv_bfloat16>({.batch = 7,
                .hidden = 96,
                .direction = direction,
                .first_layer = true,
                .pinned_next = pinned});
}

// A zero state scores 0, and a NaN state never exits, whatever tau is.
void zero_and_nan_states()
{
    for (bool nan : {false, true})
        for (int scope : {0, 2})
        {
            GateCase<__half> c({.batch = 2, .hidden = 64, .scope = scope, .first_layer = true});
            for (int i = 0; i < 64; ++i)
                put<__half>(c.delta, i, nan ? NAN : 0.0);
            c.scalars.as<float>()[0] = nan ? -INFINITY : -0.5F;
            check(finished(launch_gate(c.params, nullptr)), "zero or NaN: launch");
            check(nan ? std::isnan(c.params.score[0]) : c.params.score[0] == 0.F, "its score");
            bool const out = load_flag(c.params.exited_out, FlagType::kBool, 0);
            check(out == !nan, "zero exits below tau, NaN does not");
            bool const other = load_flag(c.params.exited_out, FlagType::kBool, 1);
            check(other == !(nan && scope == 2), "NaN holds all rows with the batch scope only");
        }
}

void bad_parameters_are_refused_with_a_reason()
{
    struct
    {
        char const* word;
        std::function<void(GateParams&)> spoil;
    } const cases[] = {
        {"hidden", [](GateParams& p) { p.hidden = 60; }},
        {"batch", [](GateParams& p) { p.batch = 0; }},
        {"layer", [](GateParams& p) { p.layer = 0; }},
        {"tau", [](GateParams& p) { p.tau = nullptr; }},
        {"h_in", [](GateParams& p) { p.h_in = nullptr; }},
        {"h_out", [](GateParams& p) { p.h_out = nullptr; }},
        {"exited_out", [](GateParams& p) { p.exited_out = nullptr; }},
        {"num_layers", [](GateParams& p) { p.exit_layer = nullptr, p.num_layers = 0; }},
        {"aligned", [](GateParams& p) { p.delta = static_cast<char const*>(p.delta) + 2; }},
        {"workspace", [](GateParams& p) { p.workspace_bytes = 4; }},
    };
    for (auto const& bad : cases)
    {
        GateCase<__half> c({.scope = 0, .residual = true});
        bad.spoil(c.params);
        char const* text = explain_gate(c.params);
        check(text != nullptr && std::strstr(text, bad.word) != nullptr, bad.word);
        check(launch_gate(c.params, nullptr) == cudaErrorInvalidValue, bad.word);
    }
}
} // namespace

int main(int argc, char** argv)
{
    set_thread_order(argc > 1 ? std::atoi(argv[1]) : 0);
    hidden_sizes_of_real_models(is_full(argc, argv));
    scopes_decide_over_their_rows();
    a_launch_can_be_repeated();
    the_first_layer_pins_and_directions();
    zero_and_nan_states();
    bad_parameters_are_refused_with_a_reason();
    return report("gate");
}
