from dataclasses import replace

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
    cache_bytes,
    measure,
    mixed_loss,
    prefill_operations,
    summarise,
    weight_bytes,
)
from river_trt.benchmark.arms import TOGETHER, at_depth
from river_trt.benchmark.bandwidth import read_bandwidth
from river_trt.benchmark.products import product_rate
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


def test_cache_bytes_grow_with_every_step(make_engine):
    manifest = make_engine().manifest
    slot = cache_bytes(manifest, 0, 1)  # a step attends to its own slot
    shape = manifest.model.shape
    assert slot == 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * 4
    assert cache_bytes(manifest, 10, 3) == (11 + 12 + 13) * slot
    half = replace(manifest, precision=replace(manifest.precision, kv_cache="bfloat16"))
    assert 2 * cache_bytes(half, 0, 1) == slot, "numpy does not know the type"


def test_prefill_is_left_out(make_engine):
    engine = make_engine()
    full, river = measure(
        engine, [[1, 2], [3]], [FULL_DEPTH, ALL_RIVER], Plan(new_tokens=6, rounds=1)
    )
    for of_arm, depth in ((full, 4), (river, 1)):
        assert of_arm[0].tokens == of_arm[0].steps == 10
        assert of_arm[0].mean_backbone_layers == depth
        cache = cache_bytes(engine.manifest, 2, 5) + cache_bytes(engine.manifest, 1, 5)
        assert of_arm[0].read_bytes == 10 * COUNTS.per_token(depth, 4) + cache
        assert len(of_arm[0].first_token_seconds) == 2


def test_operations_of_a_prefill_are_those_of_its_weights(make_engine):
    manifest = make_engine().manifest  # 4 layers of 100 bytes of float32; 2 heads of 4; 260 x 8
    attended = 2 * 2 * 4 * 8 * (1 + 2 + 3)  # queries by keys, weights by values
    assert prefill_operations(manifest, 3) == 2 * (3 * 4 * 25 + 260 * 8) + attended
    codes = replace(manifest, precision=replace(manifest.precision, backbone="int8"))
    assert prefill_operations(codes, 3) > prefill_operations(manifest, 3)
    unknown = replace(manifest, precision=replace(manifest.precision, backbone="int3"))
    assert prefill_operations(unknown, 3) is None


def test_prefill_has_a_roof_where_operations_are_known():
    rounds = [Round(10, 10, 1.0, (0.5, 0.25), 4.0, 100, 30, 600.0)]
    (arm,) = summarise(["full"], [rounds])
    assert arm.prefill_rate == 40.0
    assert (arm.prefill_roof(2000.0), arm.prefill_roof(None)) == (100.0, None)


def test_batches_are_filled_up_and_share_their_steps(make_engine):
    engine, plan = make_engine(), Plan(new_tokens=3, rounds=1, batch=2)
    rounds = measure(engine, [[1], [2, 3], [4]], [FULL_DEPTH], plan)
    assert (rounds[0][0].tokens, rounds[0][0].steps) == (8, 4)
    cache = sum(cache_bytes(engine.manifest, length, 2) for length in (1, 2, 1, 1))
    assert rounds[0][0].read_bytes == 4 * (400 + 7 + 2) + cache


def summaries_of(**arms):
    """Each arm: (depth, seconds of a round of 10 steps of one row, ...)."""
    rounds = [
        [Round(10, 10, s, (s, 3 * s), depth, 1000) for s in seconds]
        for depth, *seconds in arms.values()
    ]
    return summarise(list(arms), rounds)


def test_summary_has_medians_and_ratios():
    full, river = summaries_of(full=(4.0, 2.0, 1.0, 4.0), river=(1.0, 0.5, 1.0, 0.25))
    assert full.tokens_per_second == Spread(5.0, 2.5, 10.0)
    assert (full.ratio, river.ratio) == (1.0, 4.0)
    assert (full.bytes_per_step, full.bytes_per_second) == (100, 500)
    assert full.first_token_seconds == 3.5  # of all prompts: 1, 2, 3, 4, 6, 12
    assert full.roof(2000.0) == 20.0  # 100 bytes a step at 2000 a second


def test_another_runtime_has_no_depth_and_no_roof():
    (peer,) = summarise(["peer"], [[Round(10, 10, 2.0, (1.0,))]])
    assert (peer.mean_backbone_layers, peer.bytes_per_step, peer.roof(1e9)) == (None, None, None)


def test_mixed_rows_are_compared_with_equal_ones_of_their_mean_depth():
    full, river, half, mixed = summaries_of(
        full=(5.0, 5.0), river=(1.0, 1.0), half=(3.0, 3.0), mixed=(3.0, 4.5)
    )
    assert mixed_loss(half, full, river) == pytest.approx(0.0)
    assert mixed_loss(mixed, full, river) == pytest.approx(0.5)
    assert mixed_loss(mixed, full, full) is None


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_forced_depth_runs_as_many_layers(make_engine, depth):
    (rounds,) = measure(make_engine(), [[1]], [at_depth(depth, 4)], Plan(new_tokens=4, rounds=1))
    assert rounds[0].mean_backbone_layers == depth


def test_rows_that_leave_together_are_asked_to(make_engine, monkeypatch):
    engine, scopes = make_engine(), []
    generate = engine.generate
    monkeypatch.setattr(
        engine, "generate", lambda p, c: scopes.append(c.gate_scope) or generate(p, c)
    )
    measure(engine, [[1], [2]], [FULL_DEPTH, TOGETHER], Plan(new_tokens=2, rounds=1, batch=2))
    assert scopes == ["token", "batch"] * 2  # the warm-up, then the round


@pytest.mark.parametrize("depth", [0, 5])
def test_depth_outside_the_model_is_refused(depth):
    with pytest.raises(RiverError, match=f"depth {depth} is not one of the layers 1..4"):
        at_depth(depth, 4)


def test_cache_that_is_too_small_is_refused_and_an_exact_one_is_not(make_engine):
    engine = make_engine(max_seq_len=8)
    measure(engine, [[1] * 3], [FULL_DEPTH], Plan(new_tokens=6, rounds=1))
    with pytest.raises(RiverError, match="3 tokens and 7 new ones do not fit the cache of 8"):
        measure(engine, [[1] * 3], [FULL_DEPTH], Plan(new_tokens=7, rounds=1))


def test_bandwidth_is_measured_within_reason():
    assert 1e8 < read_bandwidth(1) < 1e13
    assert 1e8 < product_rate(1) < 1e15
