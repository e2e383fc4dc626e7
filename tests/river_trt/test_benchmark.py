import numpy as np
import pytest

from river_trt import RiverError
from river_trt.benchmark import (
    ALL_RIVER,
    FULL_DEPTH,
    Arm,
    Plan,
    Round,
    Spread,
    measure,
    summarise,
    weight_bytes,
)
from river_trt.manifest import ByteCounts

COUNTS = ByteCounts(backbone_layer=100, river_layer=10, lm_head=7, embedding=1)
NO_PINS = np.zeros(4, np.bool_)


@pytest.mark.parametrize(
    ("exits", "pinned", "expected"),
    [
        ([[4]], [], 400 + 8),
        ([[1]], [], 100 + 30 + 8),
        ([[1]], [4], 200 + 20 + 8),
        ([[1]], [1], 100 + 30 + 8),  # layer 1 runs the backbone anyway
        ([[1, 3]], [], (100 + 30 + 8) + (300 + 10 + 8)),
        ([[2], [2]], [], 200 + 20 + 9),  # rows that agree share the reads
        ([[1], [3]], [], 300 + 30 + 9),  # layers 2 and 3 read both banks
        ([[1], [4]], [2], 400 + 20 + 9),
    ],
)
def test_weight_bytes_of_steps(exits, pinned, expected):
    mask = NO_PINS.copy()
    mask[[layer - 1 for layer in pinned]] = True
    assert weight_bytes(np.array(exits), mask, COUNTS) == expected


@pytest.mark.parametrize("exit_layer", [1, 2, 4])
def test_weight_bytes_of_one_row_equal_the_manifest_s(exit_layer):
    steps = np.full((1, 3), exit_layer)
    assert weight_bytes(steps, NO_PINS, COUNTS) == 3 * COUNTS.per_token(exit_layer, 4)


def test_every_round_runs_every_arm_and_turns_the_order(make_engine, monkeypatch):
    engine, taus = make_engine(), []
    generate = engine.generate

    def record(prompts, config):
        taus.append((config.tau, config.max_new_tokens))
        return generate(prompts, config)

    monkeypatch.setattr(engine, "generate", record)
    arms = [FULL_DEPTH, Arm("middle", tau=0.5), ALL_RIVER]
    calls = []
    rounds = measure(
        engine, [[1, 2]], arms, Plan(new_tokens=6, rounds=3), lambda *c: calls.append(c)
    )
    inf = np.inf
    assert taus[:3] == [(inf, 4), (0.5, 4), (-inf, 4)]  # the warm-up
    assert [tau for tau, _ in taus[3:]] == [inf, 0.5, -inf, -inf, 0.5, inf, inf, 0.5, -inf]
    assert [len(of_arm) for of_arm in rounds] == [3, 3, 3]
    assert calls[-1] == ("measuring", 9, 9)


def test_prefill_is_left_out(make_engine):
    full, river = measure(
        make_engine(), [[1, 2], [3]], [FULL_DEPTH, ALL_RIVER], Plan(new_tokens=6, rounds=1)
    )
    for of_arm, depth in ((full, 4), (river, 1)):
        assert of_arm[0].tokens == of_arm[0].steps == 10
        assert of_arm[0].mean_backbone_layers == depth
        assert of_arm[0].weight_bytes == 10 * COUNTS.per_token(depth, 4)
        assert len(of_arm[0].first_token_seconds) == 2


def test_batches_are_filled_up_and_share_their_steps(make_engine):
    plan = Plan(new_tokens=3, rounds=1, batch=2)
    rounds = measure(make_engine(), [[1], [2, 3], [4]], [FULL_DEPTH], plan)
    assert (rounds[0][0].tokens, rounds[0][0].steps) == (8, 4)
    assert rounds[0][0].weight_bytes == 4 * (400 + 7 + 2)


def test_summary_has_medians_and_ratios():
    def of(*seconds):
        return [Round(10, 10, s, (s, 3 * s), 4.0, 1000) for s in seconds]

    arms = [FULL_DEPTH, ALL_RIVER]
    full, river = summarise(arms, [of(2.0, 1.0, 4.0), of(0.5, 1.0, 0.25)])
    assert full.tokens_per_second == Spread(5.0, 2.5, 10.0)
    assert (full.ratio, river.ratio) == (1.0, 4.0)
    assert (full.bytes_per_step, full.bytes_per_second) == (100, 500)
    assert full.first_token_seconds == 3.5  # of all prompts: 1, 2, 3, 4, 6, 12


def test_cache_that_is_too_small_is_refused_and_an_exact_one_is_not(make_engine):
    engine = make_engine(max_seq_len=8)
    measure(engine, [[1] * 3], [FULL_DEPTH], Plan(new_tokens=6, rounds=1))
    with pytest.raises(RiverError, match="3 tokens and 7 new ones do not fit the cache of 8"):
        measure(engine, [[1] * 3], [FULL_DEPTH], Plan(new_tokens=7, rounds=1))
