"""Whatever the river drafts, the text is the backbone's."""

from dataclasses import replace

import numpy as np
import pytest

from river_trt import GenerationConfig
from river_trt.errors import EngineError
from river_trt.lossless.draft import Draft
from river_trt.lossless.gap import GapAcceptance
from river_trt.lossless.length import DraftLength, shared_length
from river_trt.lossless.repeats import Repeats
from river_trt.spec import ExitPolicy
from tests.river_trt.conftest import next_logits

GREEDY = GenerationConfig(max_new_tokens=30, ignore_eos=True, mode="lossless")
PROMPTS = [[1, 2, 3], [9], [4, 5, 6, 7, 8], [200, 3]]


def assert_same(lossless, full):
    for ours, theirs in zip(lossless, full, strict=True):
        assert ours.token_ids == theirs.token_ids
        assert (ours.text, ours.finish_reason) == (theirs.text, theirs.finish_reason)
        assert ours.exit_layers.tolist() == theirs.exit_layers.tolist()
        assert ours.backbone_layers.tolist() == theirs.backbone_layers.tolist()


@pytest.mark.parametrize("agreement", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("batch_invariant", [False, True])
def test_greedy_text_is_the_full_depth_text(make_lossless_engine, agreement, batch_invariant):
    engine = make_lossless_engine(agreement, batch_invariant=batch_invariant)
    full = engine.generate(PROMPTS, replace(GREEDY, mode="full"))
    assert_same(engine.generate(PROMPTS, GREEDY), full)
    assert_same([engine.generate(p, GREEDY)[0] for p in PROMPTS], full)


@pytest.mark.parametrize("penalty", [1.0, 1.4])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7, 8])
def test_text_ends_where_full_depth_ends(make_lossless_engine, length, penalty):
    """At a token limit, a full cache, a stop string or an end-of-sequence token, in any round."""
    config = replace(GREEDY, max_new_tokens=length, repetition_penalty=penalty)
    short = make_lossless_engine(0.9, max_seq_len=5 + length)
    for engine in (make_lossless_engine(0.9), short):
        limits = config if engine is not short else replace(config, max_new_tokens=100)
        full = engine.generate(PROMPTS, replace(limits, mode="full"))
        assert_same(engine.generate(PROMPTS, limits), full)
        assert {r.finish_reason for r in full} == {"length"}
    engine = make_lossless_engine(0.9)
    text = engine.generate("ab", replace(config, mode="full", max_new_tokens=20))[0]
    ends = [{"stop_token_ids": [text.token_ids[length]]}]
    ends += [{"stop": [text.text[length : length + 2]]}] if text.text[length : length + 2] else []
    for end in ends:
        stopped = replace(config, max_new_tokens=20, **end)
        full = engine.generate("ab", replace(stopped, mode="full"))
        assert full[0].finish_reason == "stop"
        assert_same(engine.generate("ab", stopped), full)


def test_eos_within_a_round_ends_the_text(make_lossless_engine, reference):
    prompt = next(
        [a, b]
        for a in range(256)
        for b in range(256)
        if reference.greedy([a, b], 3)[0][2] == reference.eos
    )
    engine = make_lossless_engine(1.0)
    result = engine.generate(prompt, replace(GREEDY, ignore_eos=False))[0]
    assert (result.finish_reason, len(result.token_ids)) == ("eos", 3)


def test_streamed_events_are_one_a_token_in_order(make_lossless_engine):
    engine = make_lossless_engine(0.9)
    events = list(engine.stream("ab", GREEDY))
    result = events[-1].result
    assert [event.token_id for event in events] == result.token_ids
    assert "".join(event.text for event in events) == result.text
    assert [event.result is None for event in events] == [True] * 29 + [False]


def test_river_that_is_right_saves_backbone_passes(make_lossless_engine):
    engine = make_lossless_engine(1.0)
    result = engine.generate([1, 2], GREEDY)[0]
    speculation = result.speculation
    kinds = engine.stepper.session.kinds
    assert kinds.count("full") == 1 + len(speculation.drafted)  # and the prefill
    assert kinds.count("draft") == speculation.drafted.sum()
    assert (speculation.accepted == speculation.drafted).all() and speculation.acceptance == 1.0
    assert 1 + (1 + speculation.accepted).sum() == len(result.token_ids) == 30
    assert speculation.drafted.max() == 5 and speculation.tokens_per_round > 4
    assert speculation.draft_seconds + speculation.verify_seconds <= result.decode_seconds
    few = engine.generate([1, 2], replace(GREEDY, max_draft_tokens=2))[0]
    assert few.speculation.drafted.max() == 2
    assert engine.generate([1, 2], replace(GREEDY, mode="full"))[0].speculation is None


def test_drafting_stops_where_it_does_not_pay_and_is_tried_again(make_lossless_engine):
    wrong = make_lossless_engine(0.0, max_seq_len=400)
    drafted = wrong.generate([1, 2], replace(GREEDY, max_new_tokens=300))[0].speculation.drafted
    assert drafted[0] > 0 and (drafted == 0).mean() > 0.6
    assert (drafted[len(drafted) // 2 :] > 0).any()


def test_draft_length_follows_acceptance_and_cost():
    def settled(cost, share, rows=1, rounds=40):
        length = DraftLength(cost, limit=8)
        for number in range(rounds):
            right = (number * 7 % 10) / 10 < share
            length.observe(True, 4 if right else 0, not right)
        draft = Draft(ExitPolicy.full_depth(2), length, None, adapts=True)
        draft.begin(100, None if rows == 1 else shared_length([length], rows))
        while not draft.complete:
            draft.add(0, None, None)
        return len(draft.token_ids)

    assert settled(0.2, 0.0) == 0
    assert 0 < settled(0.2, 0.8) < settled(0.2, 0.95) <= settled(0.2, 1.0) == 8
    assert settled(0.9, 0.8) == 0  # a draft step nearly as dear as the backbone
    assert settled(0.2, 0.8) > settled(0.2, 0.8, rows=4) > settled(0.2, 0.8, rows=40) == 0
    assert DraftLength(0.2, limit=8).most(2) == 2 and DraftLength(0.2, limit=8).most(0) == 0


def test_greedy_draft_ends_behind_a_close_choice():
    def drafted(gaps):
        draft = Draft(ExitPolicy.full_depth(2), DraftLength(0.2, limit=8), GapAcceptance(), True)
        draft.begin(100, None)
        for number, gap in enumerate(gaps, 1):
            draft.add(0, None, gap)
            if draft.complete:
                return number
        return None

    assert drafted([9.0, 9.0, 0.0, 9.0]) == 3
    assert drafted([9.0] * 8) == 8
    assert drafted([0.0]) == 1


def test_lead_that_is_accepted_is_learned():
    def after(spread, count=3000):
        gaps = GapAcceptance()
        random = np.random.default_rng(0)
        for gap in random.exponential(3.0, count):
            gaps.observe(gap, bool(random.normal() * spread < gap))
        return gaps

    assert after(0.3).spread == pytest.approx(0.3, rel=0.4)
    assert after(2.0).spread == pytest.approx(2.0, rel=0.4)
    assert GapAcceptance().acceptance(0.0) == 0.5
    narrow = GapAcceptance(spread=1e-3)
    narrow.observe(1.0, False)  # a thousand deviations away
    assert narrow.spread > 1.2e-3
    assert after(0.3).acceptance(1.0) > 0.97 > 0.8 > after(2.0).acceptance(1.0)


@pytest.mark.parametrize("kind", ["draft", "full"])
def test_logits_that_are_no_numbers_end_their_row_only(make_lossless_engine, monkeypatch, kind):
    engine = make_lossless_engine(1.0)
    expected = engine.generate([9], GREEDY)[0].token_ids
    scheduler = engine.scheduler()
    bad, good = scheduler.submit([1, 2], GREEDY), scheduler.submit([9], GREEDY)
    scheduler.step()
    step = engine.stepper.session.step

    def faulty(asked):
        out = step(asked)
        if engine.stepper.session.kinds[-1] == kind and asked.first_row == 0:
            out.logits[0, -1] = np.nan
        return out

    monkeypatch.setattr(engine.stepper.session, "step", faulty)
    deliveries = []
    while not any(isinstance(d.item, EngineError) for d in deliveries):
        deliveries += scheduler.step()
    monkeypatch.setattr(engine.stepper.session, "step", step)
    assert [d.request for d in deliveries if isinstance(d.item, EngineError)] == [bad]
    while scheduler.has_work:
        deliveries += scheduler.step()
    (result,) = [d.item.result for d in deliveries if d.request is good and d.is_last]
    assert result.token_ids == expected


def test_a_repeated_text_drafts_itself():
    repeats = Repeats.up_to(5)
    repeats.add([7, 1, 2, 3, 9, 8, 4, 1, 2, 3])
    assert repeats.draft(5, speedup=1.0) == [9, 8, 4, 1, 2]
    assert repeats.draft(2, speedup=1.0) == [9, 8]
    assert repeats.draft(5, speedup=9.0) == [] == repeats.draft(0, speedup=1.5)
    repeats.add([5])
    assert repeats.draft(5, speedup=1.0) == []  # new to the text
    repeats.add([6, 5, 6, 5, 6])
    assert repeats.draft(5, speedup=1.0) == [5, 6, 5, 6, 5]  # of a period shorter than itself
    for _ in range(60):
        repeats.length.observe(True, 0, True)
    assert repeats.draft(5, speedup=1.0) == []  # what is never accepted does not pay
    assert Repeats.up_to(5).draft(5, 1.0) == []


def test_text_that_repeats_is_the_backbones_with_few_steps_of_the_river(make_lossless_engine):
    def cycling(tokens, drafting):  # eight states, and a river that is wrong every other time
        wrong = drafting and len(tokens) % 2
        return next_logits(np.append(tokens[-1:] % 8, [-9] * int(wrong)))

    engine = make_lossless_engine(cycling, max_seq_len=400)
    config = replace(GREEDY, max_new_tokens=120)
    for prompts in ([[1, 2]], [[1, 2], [3, 4, 5]]):
        engine.stepper.session.kinds.clear()
        lossless = engine.generate(prompts, config)
        drafts = engine.stepper.session.kinds.count("draft")
        assert_same(lossless, engine.generate(prompts, replace(config, mode="full")))
        assert drafts < 30 * len(prompts)
        assert all(result.speculation.acceptance > 0.8 for result in lossless)
