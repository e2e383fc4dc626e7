"""Rows accept different numbers, join, leave and share steps; each gives what it gives alone."""

from dataclasses import replace

import numpy as np
import pytest

from river_trt import GenerationConfig
from river_trt.decoding import Decoder
from river_trt.lossless.spans import Place, Span, spans
from tests.river_trt.test_cache_rows import step_at_random

CONFIG = GenerationConfig(max_new_tokens=40, ignore_eos=True, mode="lossless")
KINDS = [
    CONFIG,
    replace(CONFIG, temperature=1.1, top_k=20),
    replace(CONFIG, pinned=[2], max_draft_tokens=2),
    replace(CONFIG, mode="full", temperature=0.9),
    replace(CONFIG, repetition_penalty=1.3),
    replace(CONFIG, temperature=0.7, repetition_penalty=1.2, max_draft_tokens=1),
    replace(CONFIG, frequency_penalty=0.8, presence_penalty=0.3, logit_bias={7: 4.0}),
    replace(CONFIG, temperature=1.2, logit_bias={5: 3.0, 6: 3.0}, prompt_logprobs=1),
]


@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_random_joins_and_leaves(make_lossless_engine, seed, batch_invariant):
    size = 5
    make = make_lossless_engine
    random = np.random.default_rng(seed)
    prompts = [random.integers(0, 250, random.integers(1, 9)).tolist() for _ in range(24)]
    configs = [replace(KINDS[i % len(KINDS)], seed=i) for i in range(len(prompts))]
    agreement = float(random.uniform(0.3, 1.0))
    sizes = {"max_seq_len": int(random.integers(30, 60)), "prefill_chunk": 2}
    alone = [
        make(agreement, **sizes).generate(p, c)[0] for p, c in zip(prompts, configs, strict=True)
    ]
    engine = make(agreement, size, batch_invariant=batch_invariant, **sizes)
    decoder = Decoder(engine.stepper.session, 2, batch_invariant=batch_invariant)
    rows = [engine.make_row(0, p, c) for p, c in zip(prompts, configs, strict=True)]
    # In mid-draft too.
    dropped = step_at_random(decoder, rows, size, random, leaves=0.05)
    assert len(dropped) < len(rows)
    for row, result in zip(rows, alone, strict=True):
        length = len(row.token_ids)
        assert row.token_ids == result.token_ids[:length]
        assert row in dropped or length == len(result.token_ids)


def test_no_row_waits_longer_than_a_step_for_another(make_lossless_engine):
    """Between two steps of a row at most one step of others, whatever their drafts' lengths."""
    engine = make_lossless_engine(0.85, max_seq_len=200)
    rows = [
        engine.make_row(0, [i, 1], replace(CONFIG, max_new_tokens=150, max_draft_tokens=limit))
        for i, limit in enumerate((1, 5, 8, 3))
    ]
    decoder = Decoder(engine.stepper.session, 512)
    for row in rows:
        decoder.rows.begin(row)
        decoder.prefill()
    (group,) = decoder.rows.groups
    rounds = dict.fromkeys(rows, 0)
    while group in decoder.rows.groups:
        done = {row: (row.draft.wanted, len(row.draft.token_ids)) for row in group.rows}
        verified = {row: len(row.draft.drafted) for row in group.rows}
        decoder.decode(group)
        for row in done:
            stepped = len(row.draft.drafted) > verified[row] or (
                row.draft.wanted is not None and len(row.draft.token_ids) > done[row][1]
            )
            # A call is one step.
            rounds[row] = 0 if stepped else rounds[row] + 1
            assert rounds[row] <= 1
    assert all(len(row.token_ids) == 150 for row in rows)


def test_rows_of_a_batch_verify_together(make_lossless_engine):
    engine = make_lossless_engine(0.9)
    engine.generate([[1, 2], [3], [4, 5], [6]], CONFIG)
    session = engine.stepper.session
    steps = zip(session.steps, session.kinds, strict=True)
    verified = [rows for (_, rows, _), kind in steps if kind == "full"]
    assert verified[4:9] == [4] * 5  # after the prefills


def test_scheduler_counts_what_was_drafted(make_lossless_engine):
    engine = make_lossless_engine(0.8)
    scheduler = engine.scheduler()
    requests = [scheduler.submit([i], replace(CONFIG, seed=i)) for i in range(3)]
    results = {}
    while scheduler.has_work:
        for delivery in scheduler.step():
            if delivery.is_last:
                results[delivery.request] = delivery.item.result
    metrics = scheduler.metrics()
    found = [results[request].speculation for request in requests]
    assert metrics.lossless_rounds == sum(len(s.drafted) for s in found)
    assert metrics.drafted_tokens == sum(s.drafted.sum() for s in found)
    assert metrics.accepted_tokens == sum(s.accepted.sum() for s in found)
    assert metrics.draft_seconds > 0 and metrics.verify_seconds > 0
    assert 0 < metrics.draft_acceptance < 1
    assert metrics.generated_tokens == 120


def test_spans_cover_idle_places_and_end_where_there_is_no_room():
    places = [Place(3, 2), Place(9, 0), Place(5, 1), Place(1, 3)]
    assert spans(places, 20) == [Span(0, 4, 3)]
    assert spans(places, 11) == [Span(0, 3, 2), Span(3, 4, 3)]  # the idle one has two slots left
    assert spans(places, 10) == [Span(0, 1, 2), Span(2, 4, 3)]
    assert spans([Place(4, 0), Place(2, 1), Place(7, 0)], 8) == [Span(1, 2, 1)]
