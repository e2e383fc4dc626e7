"""Rows keep their own cache whatever joins and leaves around them."""

from dataclasses import replace

import numpy as np
import pytest

from river_trt import GenerationConfig
from river_trt.decoding import Decoder

CONFIG = GenerationConfig(max_new_tokens=40, ignore_eos=True, temperature=1.2, seed=5)
POLICIES = [{"tau": 1.0}, {"tau": -np.inf}, {"tau": 0.3, "pinned": [2]}, {"tau": np.inf}]


def config_of(number):
    return replace(CONFIG, seed=number, **POLICIES[number % len(POLICIES)])


def check_layout(decoder, limit):
    """Groups are contiguous from cache row 0 on, and each policy has one."""
    end = 0
    for group in decoder.rows.groups:
        assert group.first == end and group.places
        assert len({row.step_key for row in group.rows} | {group.key}) == 1
        end += len(group.places)
    assert end <= limit
    assert len({group.key for group in decoder.rows.groups}) == len(decoder.rows.groups)


def step_at_random(decoder, rows, size, random, leaves):
    """Runs the rows, at most `size` together, to their ends; returns those that left before it.

    leaves: how likely one leaves after a step.
    """
    waiting, running, dropped = list(rows), [], []
    while waiting or running or decoder.rows.prefilling:
        if decoder.rows.prefilling is None and waiting and len(decoder.rows) < size:
            decoder.rows.begin(waiting.pop(0))
            running.append(decoder.rows.prefilling)
        if decoder.rows.prefilling is not None:
            decoder.prefill()
        for group in list(decoder.rows.groups):
            if random.random() < 0.8:
                decoder.decode(group)
        running = [row for row in running if row.finish_reason is None]
        if running and random.random() < leaves:
            gone = running.pop(int(random.integers(len(running))))
            decoder.rows.remove(gone)
            dropped.append(gone)
        check_layout(decoder, size * 2)
    return dropped


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_random_joins_and_leaves_of_several_policies(make_engine, seed, batch_invariant):
    size = 5
    engine = make_engine(
        max_batch_size=size, prefill_chunk=2, batch_invariant=batch_invariant, max_seq_len=60
    )
    random = np.random.default_rng(seed)
    prompts = [random.integers(0, 250, random.integers(1, 9)).tolist() for _ in range(24)]
    alone = [make_engine().generate(p, config_of(i))[0] for i, p in enumerate(prompts)]
    decoder = Decoder(engine.stepper.session, 2, batch_invariant=batch_invariant)
    rows = [engine.make_row(0, p, config_of(i)) for i, p in enumerate(prompts)]
    dropped = step_at_random(decoder, rows, size, random, leaves=0.1)
    assert 0 < len(dropped) < len(rows)
    for row, result in zip(rows, alone, strict=True):
        length = len(row.token_ids)
        assert row.token_ids == result.token_ids[:length]
        assert row.exit_layers == result.exit_layers[:length].tolist()
        assert row in dropped or length == len(result.token_ids)


def test_lone_row_steps_as_one_of_two_and_only_it(make_engine, reference):
    engine = make_engine(batch_invariant=True)
    greedy = GenerationConfig(max_new_tokens=4, ignore_eos=True)
    result = engine.generate([1, 2, 3], greedy)[0]
    assert result.token_ids == reference.greedy([1, 2, 3], 4)[0]
    assert engine.stepper.session.steps == [(0, 1, 3)] + [(0, 2, 1)] * 3
    engine.stepper.session.steps.clear()
    engine.generate([[1, 2, 3], [4], [5]], greedy)
    assert engine.stepper.session.steps[3:] == [(0, 3, 1)] * 3


def test_equal_policies_of_different_configs_share_a_step(make_engine):
    engine = make_engine()
    configs = [replace(CONFIG, tau=0.5), replace(CONFIG, tau=[0.5] * 4, seed=9, temperature=0.0)]
    rows = [engine.make_row(0, [1, 2], config) for config in configs]
    assert rows[0].step_key == rows[1].step_key
    other = engine.make_row(0, [1, 2], replace(CONFIG, tau=0.5, pinned=[1]))
    assert other.step_key != rows[0].step_key
