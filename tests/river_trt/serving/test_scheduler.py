from dataclasses import replace

import numpy as np
import pytest

from river_trt import GenerationConfig, RiverError
from river_trt.errors import EngineError
from river_trt.serving import RejectedError, ServerClosedError

GREEDY = GenerationConfig(max_new_tokens=6, ignore_eos=True)


def drain(scheduler, steps=1000):
    """Steps until nothing is left; what came, in order."""
    deliveries = []
    while scheduler.has_work:
        deliveries += scheduler.step()
        steps -= 1
        assert steps, "the scheduler does not come to an end"
    return deliveries


def results_of(deliveries):
    return {d.request: d.item.result for d in deliveries if d.is_last}


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_what_a_request_gives_does_not_depend_on_the_others(make_engine, batch_invariant):
    random = np.random.default_rng(0)
    engine = make_engine(max_batch_size=4, prefill_chunk=3, batch_invariant=batch_invariant)
    scheduler = engine.scheduler()
    asked = []
    for i in range(16):
        config = GenerationConfig(
            max_new_tokens=int(random.integers(1, 20)),
            temperature=[0.0, 1.3][i % 2],
            seed=i,
            tau=[1.0, -np.inf, 0.2][i % 3],
            repetition_penalty=[1.0, 1.5][i % 2],
        )
        prompt = random.integers(0, 250, random.integers(1, 20)).tolist()
        asked.append((scheduler.submit(prompt, config), prompt, config))
    results = results_of(drain(scheduler))
    for request, prompt, config in asked:
        alone = make_engine(prefill_chunk=3).generate(prompt, config)[0]
        assert results[request].token_ids == alone.token_ids
        assert results[request].text == alone.text
        assert results[request].finish_reason == alone.finish_reason
        assert results[request].exit_layers.tolist() == alone.exit_layers.tolist()


def test_first_come_first_served(make_engine):
    scheduler = make_engine(max_batch_size=2).scheduler()
    requests = [scheduler.submit([i], replace(GREEDY, max_new_tokens=3 + i)) for i in range(7)]
    started = [d.request for d in drain(scheduler) if len(d.request.row.token_ids) >= 1]
    assert list(dict.fromkeys(started)) == requests


def test_long_prompt_does_not_hold_up_decoding(make_engine):
    engine = make_engine(prefill_chunk=4)
    scheduler = engine.scheduler()
    first = scheduler.submit([1, 2], replace(GREEDY, max_new_tokens=30))
    scheduler.step()
    scheduler.submit(list(range(40)), GREEDY)  # ten chunks
    for _ in range(9):
        before = len(first.row.token_ids)
        engine.stepper.session.steps.clear()
        scheduler.step()
        assert len(first.row.token_ids) == before + 1
        assert [seq for _, _, seq in engine.stepper.session.steps] == [4, 1]


def test_short_prompts_share_the_prefill_of_one_step(make_engine):
    engine = make_engine(prefill_chunk=8)
    scheduler = engine.scheduler()
    for length in (3, 4, 2, 3):
        scheduler.submit(list(range(length)), GREEDY)
    scheduler.step()
    assert engine.stepper.session.steps == [(0, 1, 3), (1, 1, 4), (0, 2, 1)]
    scheduler.step()
    assert engine.stepper.session.steps[3:] == [(2, 1, 2), (3, 1, 3), (0, 4, 1)]


def test_admission_limit(make_engine):
    scheduler = make_engine(max_batch_size=2).scheduler(max_queue=1)
    requests = [scheduler.submit([i], GREEDY) for i in range(3)]
    with pytest.raises(RejectedError, match="2 requests run and 1 wait; try again later"):
        scheduler.submit([9], GREEDY)
    assert set(results_of(drain(scheduler))) == set(requests)
    scheduler.submit([9], GREEDY)
    assert scheduler.metrics().rejected == 1


@pytest.mark.parametrize("steps", [0, 1, 3])  # waiting, prefilling, decoding
def test_cancelling_frees_the_place_at_once(make_engine, reference, steps):
    engine = make_engine(max_batch_size=1, prefill_chunk=2)
    scheduler = engine.scheduler(max_queue=1)
    gone = scheduler.submit([1, 2, 3, 4], replace(GREEDY, max_new_tokens=30))
    for _ in range(steps):
        scheduler.step()
    scheduler.cancel(gone)
    scheduler.cancel(gone)  # without effect
    engine.stepper.session.steps.clear()
    request = scheduler.submit([9], GREEDY)
    deliveries = drain(scheduler)
    assert {d.request for d in deliveries} == {request}
    assert results_of(deliveries)[request].token_ids == reference.greedy([9], 6)[0]
    assert len(engine.stepper.session.steps) == 6  # nothing ran for the cancelled one
    metrics = scheduler.metrics()
    assert (metrics.cancelled, metrics.completed, metrics.running) == (1, 1, 0)


def test_failing_row_and_failing_step_end_their_own_requests(make_engine, monkeypatch, reference):
    engine = make_engine()
    scheduler = engine.scheduler()
    step, broken = engine.stepper.session.step, {"nan": False, "raise": False}

    def faulty(asked):
        if broken["raise"]:
            raise RuntimeError("out of memory\nand a long trace")
        out = step(asked)
        if broken["nan"]:
            out.logits[0, :, 3] = np.nan
        return out

    monkeypatch.setattr(engine.stepper.session, "step", faulty)
    bad, good = scheduler.submit([1], GREEDY), scheduler.submit([2], GREEDY)
    scheduler.step()
    broken["nan"] = True
    deliveries = scheduler.step()
    broken["nan"] = False
    assert isinstance(deliveries[0].item, EngineError) and deliveries[0].request is bad
    assert results_of(drain(scheduler))[good].token_ids == reference.greedy([2], 6)[0]
    lost = scheduler.submit([3], GREEDY)
    broken["raise"] = True
    (delivery,) = scheduler.step()
    assert delivery.request is lost and str(delivery.item).endswith(
        "failed: RuntimeError: out of memory"
    )
    broken["raise"] = False
    assert not scheduler.has_work
    scheduler.submit([2], GREEDY)
    assert drain(scheduler)[-1].item.result.token_ids == reference.greedy([2], 6)[0]
    assert (scheduler.metrics().failed, scheduler.metrics().completed) == (2, 2)


def test_metrics_add_up(make_engine):
    engine = make_engine()
    scheduler = engine.scheduler()
    for i in range(3):
        scheduler.submit([i, i], replace(GREEDY, tau=-np.inf))
    waiting = scheduler.metrics()
    assert (waiting.waiting, waiting.running, waiting.mean_latency_seconds) == (3, 0, 0.0)
    drain(scheduler)
    metrics = scheduler.metrics()
    assert (metrics.waiting, metrics.running, metrics.completed) == (0, 0, 3)
    assert (metrics.prompt_tokens, metrics.generated_tokens) == (6, 18)
    assert metrics.prefill_tokens == 6 and metrics.prefill_seconds > 0
    assert (metrics.decode_tokens, metrics.decode_steps) == (15, 5)
    assert metrics.mean_backbone_layers == 1.0 and metrics.mean_batch_size == 3.0
    assert metrics.latency_seconds >= metrics.first_token_seconds >= metrics.queue_seconds > 0


@pytest.mark.parametrize(
    ("prompt", "config", "message"),
    [
        ("", GREEDY, "the prompt is empty"),
        ([1, 999], GREEDY, "token id 999 is outside"),
        ([1] * 65, GREEDY, "65 tokens but the cache has 64"),
        ([1], replace(GREEDY, tau=(0.5, 0.5)), "tau has 2 values"),
        ([1], replace(GREEDY, gate_scope="batch"), "gate_scope must be 'token'"),
        ([1] * 5, replace(GREEDY, prefill="sequence"), "takes 4 tokens at a time.* has 5"),
    ],
)
def test_bad_request_is_refused_at_once(make_engine, prompt, config, message):
    scheduler = make_engine(prefill_chunk=4).scheduler()
    with pytest.raises(RiverError, match=message):
        scheduler.submit(prompt, config)
    assert not scheduler.has_work


def test_engine_is_busy_until_the_scheduler_is_closed(make_engine, reference):
    engine = make_engine()
    scheduler = engine.scheduler()
    request = scheduler.submit([1], GREEDY)
    with pytest.raises(RiverError, match="busy"):
        engine.generate([1], GREEDY)
    (delivery,) = scheduler.close()
    assert delivery.request is request and isinstance(delivery.item, ServerClosedError)
    assert scheduler.close() == []
    with pytest.raises(ServerClosedError):
        scheduler.submit([1], GREEDY)
    assert engine.generate([1], GREEDY)[0].token_ids == reference.greedy([1], 6)[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_batch_size": 5}, "max_batch_size must be in 1..4, got 5"),
        ({"max_batch_size": 0}, "max_batch_size must be in 1..4, got 0"),
        ({"max_queue": -1}, "max_queue must be at least 0, got -1"),
    ],
)
def test_options_out_of_range(make_engine, options, message):
    with pytest.raises(RiverError, match=message):
        make_engine().scheduler(**options)
