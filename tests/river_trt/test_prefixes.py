"""Prompts that begin like others are not read again, and no text shows it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from river_trt import GenerationConfig
from river_trt.backends.base import StepOutput
from river_trt.results import TokenEvent
from tests.river_trt.conftest import VOCAB, FakeSession, exit_layer, next_logits

LONG = list(range(40))
CONFIG = GenerationConfig(max_new_tokens=12, ignore_eos=True, tau=0.5)
FULL = replace(CONFIG, tau=None, mode="full")


class BankSession(FakeSession):
    """Its logits depend on who wrote the slots: the backbone, or a river, and of which policy."""

    def __init__(self, options):
        super().__init__(options)
        self.writer = np.zeros(self.cache.shape, np.int64)
        self.read = 0  # tokens

    def step(self, step):
        logits = np.zeros((step.rows, step.num_logits, VOCAB), np.float32)
        exits = np.zeros((step.rows, step.seq), np.int32)
        is_full = bool(np.isposinf(step.policy.tau).all())
        writer = 0 if is_full else 1 + int(min(abs(step.policy.tau[0]), 9) * 1000)
        self.read += step.rows * step.seq
        for row, past in enumerate(step.past_lengths):
            at = step.first_row + row
            self.cache[at, past : past + step.seq] = step.input_ids[row]
            self.writer[at, past : past + step.seq] = writer
            for i in range(step.seq):
                slots = slice(0, past + i + 1)
                known = self.cache[at, slots] + 1000 * self.writer[at, slots]
                assert (self.cache[at, slots] >= 0).all(), "nobody wrote a slot that is read"
                exits[row, i] = exit_layer(known, step.policy)
                for place in np.flatnonzero(step.logit_indices == i):
                    logits[row, place] = next_logits(known)
        return StepOutput(logits, exits)

    def move_row(self, source, target, length):
        super().move_row(source, target, length)
        self.writer[target] = -1
        self.writer[target, :length] = self.writer[source, :length]


@pytest.fixture
def make(make_engine):
    def make(kept_rows=3, **options):
        given = {"session": BankSession, "max_seq_len": 200, "prefill_chunk": 16} | options
        return make_engine(kept_rows=kept_rows, **given)

    return make


def run(scheduler, *asked):
    """Results of requests (prompt, config), all at once."""
    requests = [scheduler.submit(prompt, config) for prompt, config in asked]
    found = {}
    while scheduler.has_work:
        for delivery in scheduler.step():
            assert isinstance(delivery.item, TokenEvent), delivery.item
            if delivery.item.result is not None:
                found[delivery.request] = delivery.item.result
    return [found[request] for request in requests]


def turns(scheduler, count, config):
    """A conversation whose every prompt is the one before, its answer, and a question."""
    prompt, results = LONG, []
    for turn in range(count):
        (result,) = run(scheduler, (prompt, config))
        results.append(result)
        prompt = [*prompt, *result.token_ids, 100 + turn, 7]
    return results


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("mode", ["river", "full", "lossless"])
def test_a_conversation_is_the_same_with_and_without(make, mode, batch_invariant):
    config = replace(CONFIG, mode=mode, tau=0.5 if mode == "river" else None)
    with_rows = make(batch_invariant=batch_invariant)
    without = make(kept_rows=0, batch_invariant=batch_invariant)
    reused = turns(with_rows.scheduler(), 5, config)
    plain = turns(without.scheduler(), 5, config)
    assert [r.token_ids for r in reused] == [r.token_ids for r in plain]
    assert [r.exit_layers.tolist() for r in reused] == [r.exit_layers.tolist() for r in plain]
    assert all(r.reused_tokens == 0 for r in plain)
    for before, after in pairwise(reused):
        # In the mode "river" the answer is read again, by the backbone.
        known = before.prompt_tokens + (0 if mode == "river" else len(before.token_ids) - 1)
        assert after.reused_tokens == known
    assert with_rows.stepper.session.read < without.stepper.session.read / 1.5


def test_what_a_river_wrote_is_reused_where_it_is_asked_for(make):
    scheduler = make().scheduler(reuses_river=True)
    results = turns(scheduler, 4, CONFIG)
    for before, after in pairwise(results):
        assert after.reused_tokens == before.prompt_tokens + len(before.token_ids) - 1
    # Of another policy, or of none: up to the first slot that the river wrote.
    prompt = [*LONG, *results[0].token_ids, 100, 7, *results[1].token_ids]
    for config in (replace(CONFIG, tau=0.7), FULL):
        (result,) = run(scheduler, (prompt, config))
        assert result.token_ids == run(make(kept_rows=0).scheduler(), (prompt, config))[0].token_ids
        prompt = [*prompt, 3]


def test_what_stands_behind_a_rivers_slots_is_no_backbones(make):
    """A prefill whose prompt was partly reused reads the river's K and V in its attention."""
    scheduler = make().scheduler(reuses_river=True)
    first, second = turns(scheduler, 2, CONFIG)
    prompt = [*LONG, *first.token_ids, 100, 7, *second.token_ids, 9]
    (result,) = run(scheduler, (prompt, FULL))
    assert result.reused_tokens == len(LONG)
    assert result.token_ids == run(make(kept_rows=0).scheduler(), (prompt, FULL))[0].token_ids


def test_choices_and_prompts_that_run_share_what_they_begin_with(make):
    engine = make()
    configs = [replace(CONFIG, temperature=1.0, seed=seed) for seed in range(4)]
    results = run(engine.scheduler(), *((LONG, config) for config in configs))
    plain = run(make(kept_rows=0).scheduler(), *((LONG, config) for config in configs))
    assert [r.token_ids for r in results] == [r.token_ids for r in plain]
    assert [r.reused_tokens for r in results] == [0] + 3 * [len(LONG) - 1]


def test_the_row_unused_longest_makes_room(make):
    scheduler = make(kept_rows=2).scheduler()
    prompts = [[start, *LONG] for start in (200, 201, 202)]

    def reused(prompt):
        return run(scheduler, (prompt, FULL))[0].reused_tokens > 0

    assert not reused(prompts[0]) and not reused(prompts[1])
    assert reused(prompts[0])  # now the second one is unused longest
    assert not reused(prompts[2])
    assert reused(prompts[0]) and not reused(prompts[1])


def test_a_cancelled_request_is_kept_and_a_failed_one_is_not(make, monkeypatch):
    engine = make()
    scheduler = engine.scheduler()
    request = scheduler.submit(LONG, FULL)
    for _ in range(6):
        scheduler.step()
    scheduler.cancel(request)
    scheduler.step()
    assert run(scheduler, ([*LONG, 5], FULL))[0].reused_tokens == len(LONG)

    other = [9, *LONG]
    step = engine.stepper.session.step

    def failing(given):
        if given.seq == 1:
            raise RuntimeError("out of memory")
        return step(given)

    monkeypatch.setattr(engine.stepper.session, "step", failing)
    scheduler.submit(other, FULL)
    while scheduler.has_work:
        scheduler.step()
    monkeypatch.setattr(engine.stepper.session, "step", step)
    assert run(scheduler, (other, FULL))[0].reused_tokens == 0


def test_a_prompt_that_was_cancelled_halfway_is_kept_as_far_as_it_was_read(make):
    scheduler = make().scheduler()
    request = scheduler.submit(LONG, FULL)
    scheduler.step()
    scheduler.step()  # two chunks of 16
    scheduler.cancel(request)
    scheduler.step()
    assert run(scheduler, (LONG, FULL))[0].reused_tokens == 32


@pytest.mark.parametrize("change", [{"prefill": "sequence"}, {"prompt_logprobs": 0}])
def test_requests_that_need_their_own_prefill_have_it(make, change):
    scheduler = make(prefill_chunk=64).scheduler()
    config = replace(CONFIG, **change)
    plain = run(make(kept_rows=0, prefill_chunk=64).scheduler(), (LONG, config))
    for _ in range(2):
        (result,) = run(scheduler, (LONG, config))
        assert result.reused_tokens == 0 and result.token_ids == plain[0].token_ids
    assert run(scheduler, (LONG, CONFIG))[0].reused_tokens == 0, "nor do they leave it to others"


def test_metrics_count_what_was_reused(make):
    scheduler = make().scheduler()
    turns(scheduler, 3, FULL)
    metrics = scheduler.metrics()
    assert metrics.reused_tokens == 51 + 65
    assert metrics.prompt_tokens == 40 + 54 + 68


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_requests_at_random(make, seed, batch_invariant):
    """Prompts of a few beginnings, all modes, joining and leaving: each as it is alone."""
    random = np.random.default_rng(seed)
    beginnings = [random.integers(0, 250, 30).tolist() for _ in range(3)]
    modes = [CONFIG, FULL, replace(CONFIG, tau=0.9), replace(FULL, mode="lossless")]
    asked = []
    for number in range(24):
        beginning = beginnings[random.integers(3)][: random.integers(5, 31)]
        prompt = beginning + random.integers(0, 250, random.integers(1, 9)).tolist()
        config = replace(modes[number % 4], temperature=0.8, seed=number)
        asked.append((prompt, replace(config, max_new_tokens=int(random.integers(1, 30)))))
    engine = make(batch_invariant=batch_invariant)
    together = run(engine.scheduler(max_queue=64), *asked)
    alone = make(kept_rows=0, batch_invariant=batch_invariant)
    for result, (prompt, config) in zip(together, asked, strict=True):
        assert result.token_ids == alone.generate(prompt, config)[0].token_ids
    assert sum(result.reused_tokens > 0 for result in together) > 4
