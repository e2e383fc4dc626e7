from dataclasses import replace

import numpy as np
import pytest

from river_trt import Chat, ChatOptions, EngineError, ExitPolicy, GenerationConfig, RiverError
from river_trt.manifest import SamplingInfo, TextInfo
from river_trt.spec import GateScope
from river_trt.text import Tokenizer

PROMPTS = [[1, 2, 3], [9], [4, 5, 6, 7, 8], [200, 3]]
GREEDY = GenerationConfig(max_new_tokens=12, ignore_eos=True)


def test_ragged_batch_equals_the_reference_row_by_row(make_engine, reference):
    results = make_engine().generate(PROMPTS, GREEDY)
    for prompt, result in zip(PROMPTS, results, strict=True):
        tokens, exits = reference.greedy(prompt, 12)
        assert result.token_ids == tokens
        assert result.exit_layers.tolist() == exits
        assert result.finish_reason == "length"
        assert result.prompt_tokens == len(prompt)


def test_row_that_leaves_the_batch_does_not_disturb_the_others(make_engine, reference):
    # Row 0 ends at its third token: the last row moves into its cache row.
    stop = reference.greedy(PROMPTS[0], 3)[0][2]
    engine = make_engine()
    results = engine.generate(PROMPTS, GenerationConfig(max_new_tokens=12, stop_token_ids=[stop]))
    lengths = []
    for prompt, result in zip(PROMPTS, results, strict=True):
        tokens = reference.greedy(prompt, 12)[0]
        end = min((i + 1 for i, t in enumerate(tokens) if t in (stop, reference.eos)), default=12)
        assert result.token_ids == tokens[:end]
        lengths.append(end)
    assert lengths[0] == 3 and max(lengths) == 12
    assert results[0].finish_reason == "stop"
    # Finished rows are not computed any more.
    decode_rows = [rows for first, rows, seq in engine.stepper.session.steps[len(PROMPTS) :]]
    assert decode_rows == [sum(n > i for n in lengths) for i in range(1, max(lengths))]


def test_several_rows_leave_in_one_step(make_engine, reference):
    same = [[1, 2, 3], [9, 0], [1, 2, 3], [1, 2, 3]]
    stop = reference.greedy(same[0], 3)[0][2]
    results = make_engine().generate(
        same, GenerationConfig(max_new_tokens=9, ignore_eos=True, stop_token_ids=[stop])
    )
    assert [len(r.token_ids) for r in results] == [3, 9, 3, 3]
    assert results[1].token_ids == reference.greedy(same[1], 9)[0]


def test_more_prompts_than_rows_run_in_successive_batches(make_engine, reference):
    results = make_engine(max_batch_size=2).generate([*PROMPTS, [77]], GREEDY)
    assert [r.token_ids for r in results] == [reference.greedy(p, 12)[0] for p in [*PROMPTS, [77]]]


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 100])
def test_chunked_prefill_equals_whole_prefill(make_engine, reference, chunk):
    prompt = [4, 5, 6, 7, 8]
    engine = make_engine(prefill_chunk=chunk)
    assert engine.generate(prompt, GREEDY)[0].token_ids == reference.greedy(prompt, 12)[0]
    assert max(seq for _, _, seq in engine.stepper.session.steps) == min(chunk, 5)


def test_sequence_prefill_may_exit_and_is_not_chunked(make_engine):
    engine = make_engine(prefill_chunk=2, tau=-np.inf)
    config = GenerationConfig(max_new_tokens=2, ignore_eos=True, prefill="sequence")
    assert engine.generate([1, 2, 3, 4, 5], config)[0].exit_layers.tolist() == [1, 1]
    assert engine.stepper.session.steps[0] == (0, 1, 5)
    assert engine.stepper.session.scopes[0] is GateScope.SEQUENCE
    off = GenerationConfig(max_new_tokens=2, ignore_eos=True)
    assert engine.generate([1, 2, 3, 4, 5], off)[0].exit_layers.tolist() == [4, 1]


def test_batch_scope_reaches_the_session(make_engine):
    engine = make_engine()
    config = GenerationConfig(max_new_tokens=5, ignore_eos=True, gate_scope="batch")
    results = engine.generate(PROMPTS, config)
    assert engine.stepper.session.scopes[-1] is GateScope.BATCH
    exits = np.stack([r.exit_layers for r in results])
    assert (exits == exits[0]).all()


def test_backbone_layers_count_pinned_layers_above_the_exit(make_engine):
    config = GenerationConfig(max_new_tokens=3, ignore_eos=True, tau=-np.inf, pinned=[1, 3])
    result = make_engine().generate([1, 2], config)[0]
    assert result.exit_layers.tolist() == [4, 1, 1]
    assert result.backbone_layers.tolist() == [4, 2, 2]


def test_eos_ends_a_row_unless_ignored(make_engine, reference):
    prompt = next(
        [a, b]
        for a in range(256)
        for b in range(256)
        if reference.greedy([a, b], 2)[0][1] == reference.eos
    )
    engine = make_engine()
    result = engine.generate(prompt, GenerationConfig(max_new_tokens=6))[0]
    assert (result.finish_reason, len(result.token_ids)) == ("eos", 2)
    ignored = engine.generate(prompt, GenerationConfig(max_new_tokens=6, ignore_eos=True))[0]
    assert (ignored.finish_reason, len(ignored.token_ids)) == ("length", 6)
    assert ignored.token_ids[:2] == result.token_ids


def test_full_cache_ends_with_length(make_engine, reference):
    engine = make_engine(max_seq_len=8)
    result = engine.generate([[1, 2, 3, 4, 5]], GREEDY)[0]
    assert result.finish_reason == "length"
    assert result.token_ids == reference.greedy([1, 2, 3, 4, 5], 4)[0]  # 3 slots and one more
    full = engine.generate([[1] * 8], GREEDY)[0]
    assert (full.finish_reason, len(full.token_ids)) == ("length", 1)


def test_sampled_row_is_independent_of_its_batch(make_engine):
    def config(seed):
        return GenerationConfig(max_new_tokens=8, ignore_eos=True, temperature=1.5, seed=seed)

    engine = make_engine()
    batch = engine.generate(PROMPTS, config(7))
    for i, prompt in enumerate(PROMPTS):
        assert engine.generate([prompt], config(7 + i))[0].token_ids == batch[i].token_ids
    assert engine.generate(PROMPTS, config(7))[0].token_ids == batch[0].token_ids
    assert engine.generate(PROMPTS, config(70))[0].token_ids != batch[0].token_ids


def test_equal_prompts_of_a_batch_get_different_samples(make_engine):
    config = GenerationConfig(max_new_tokens=8, ignore_eos=True, temperature=1.5, seed=0)
    one, other = make_engine().generate([[1, 2], [1, 2]], config)
    assert one.token_ids != other.token_ids


def test_repetition_penalty_counts_prompt_and_generated_tokens(make_engine, reference):
    plain = reference.greedy([1, 2, 3], 1)[0][0]
    config = GenerationConfig(max_new_tokens=40, ignore_eos=True, repetition_penalty=1e9)
    tokens = make_engine().generate([1, 2, 3], config)[0].token_ids
    assert tokens[0] == plain
    assert len({*tokens, 1, 2, 3}) == 43


def test_stream_yields_what_generate_returns(make_engine):
    engine = make_engine()
    results = engine.generate(PROMPTS, GREEDY)
    texts, tokens, last = {}, {}, {}
    for event in engine.stream(PROMPTS, GREEDY):
        texts[event.row] = texts.get(event.row, "") + event.text
        tokens.setdefault(event.row, []).append(event.token_id)
        assert event.row not in last
        if event.finish_reason:
            last[event.row] = event.result
    for row, result in enumerate(results):
        assert texts[row] == result.text == last[row].text
        assert tokens[row] == result.token_ids


def test_closed_stream_frees_the_engine_and_a_second_one_is_refused(make_engine, reference):
    engine = make_engine()
    stream = engine.stream([1, 2, 3], GREEDY)
    next(stream)
    with pytest.raises(RiverError, match="busy"):
        engine.generate([1, 2, 3], GREEDY)
    stream.close()
    assert engine.generate([9], GREEDY)[0].token_ids == reference.greedy([9], 12)[0]


def test_stop_string_is_cut_from_the_text(make_engine):
    engine = make_engine()
    whole = engine.generate("hello", GenerationConfig(max_new_tokens=40, ignore_eos=True))[0].text
    middle = whole[len(whole) // 2 : len(whole) // 2 + 2]
    config = GenerationConfig(max_new_tokens=40, ignore_eos=True, stop=[middle])
    result = engine.generate("hello", config)[0]
    assert result.text == whole[: whole.index(middle)]
    assert result.finish_reason == "stop"


def test_engine_without_tokenizer_takes_ids_only(make_engine):
    engine = make_engine(with_tokenizer=False)
    assert engine.generate([1, 2], GREEDY)[0].text is None
    with pytest.raises(RiverError, match="token ids only"):
        engine.generate("hello")
    with pytest.raises(RiverError, match="token ids only"):
        engine.generate([1], GenerationConfig(stop="x"))
    with pytest.raises(RiverError, match="token ids only"):
        engine.chat_prompt([{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "empty"),
        ([], "empty"),
        ([[1], []], "empty"),
        (["ok", ""], "empty"),
        ([1] * 65, "65 tokens but the cache has 64"),
        ([260], "outside the vocabulary"),
        ([-1], "outside the vocabulary"),
        ([[1.5]], "list of token ids"),
        ([[True, False]], "list of token ids"),
        ([[[1], [2, 3]]], "list of token ids"),
        (5, "strings or lists"),
    ],
)
def test_bad_prompt_is_refused_before_anything_runs(make_engine, prompt, message):
    engine = make_engine()
    with pytest.raises(RiverError, match=message):
        engine.stream(prompt)
    assert engine.stepper.session.steps == []


def test_numpy_prompts_are_taken(make_engine, reference):
    results = make_engine().generate(np.array([[1, 2, 3], [4, 5, 6]], np.int32), GREEDY)
    assert [r.token_ids for r in results] == [
        reference.greedy(p, 12)[0] for p in ([1, 2, 3], [4, 5, 6])
    ]


def test_parallel_forward_equals_decoding(make_engine, reference):
    engine = make_engine()
    tokens, exits = reference.greedy([1, 2, 3], 6)
    ids = np.array([[1, 2, 3, *tokens[:-1]]])
    logits, exit_layers = engine.forward(ids)
    assert logits.shape == (1, 8, reference.vocab)
    assert logits[0, 2:].argmax(-1).tolist() == tokens
    assert exit_layers[0, 3:].tolist() == exits[1:]
    some, _ = engine.forward(ids, ExitPolicy.full_depth(4), logit_indices=[7, 0])
    assert np.array_equal(some, logits[:, [7, 0]])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"token_ids": [1, 2]}, "forward takes"),
        ({"token_ids": [[1]] * 5}, "forward takes"),
        ({"token_ids": [[1, 2]], "logit_indices": [2]}, "positions in 0..1"),
        ({"token_ids": [[1, 2]], "gate_scope": "row"}, "gate_scope"),
        ({"token_ids": [[1, 2]], "first_row": 4}, r"ids \[1..0, seq\] from cache row 4 of 4"),
        ({"token_ids": [[1, 2]], "first_row": -1}, "forward takes"),
        ({"token_ids": [[1, 2]], "past_length": 63}, "2 tokens after 63 do not fit the cache of"),
        ({"token_ids": [[1, 2]], "past_length": -1}, "do not fit the cache"),
        ({"token_ids": [[1, 2]], "policy": ExitPolicy.full_depth(3)}, "3 layers"),
    ],
)
def test_forward_refuses_what_does_not_fit(make_engine, kwargs, message):
    with pytest.raises(RiverError, match=message):
        make_engine().forward(**kwargs)


def test_forward_in_passes_is_one_forward(make_engine):
    """Over a row that is not the first, while another row keeps what it holds."""
    engine, ids = make_engine(), np.arange(9)[None]
    expected, expected_exits = engine.forward(ids)
    engine.forward(ids[:, ::-1].copy(), first_row=1)
    found = [
        engine.forward(ids[:, start : start + 4], first_row=2, past_length=start)
        for start in range(0, 9, 4)
    ]
    assert np.array_equal(np.concatenate([logits for logits, _ in found], 1), expected)
    assert np.array_equal(np.concatenate([exits for _, exits in found], 1), expected_exits)
    assert engine.read_cache(1, 9)[0, 0, 0, :, 0].tolist() == ids[0, ::-1].tolist()
    assert engine.read_cache(2, 9)[3, 1, 0, :, 3].tolist() == ids[0].tolist()


@pytest.mark.parametrize(("row", "length"), [(-1, 1), (4, 1), (0, 65), (0, -1)])
def test_cache_is_read_within_its_bounds(make_engine, row, length):
    with pytest.raises(RiverError, match=r"rows 0..3 of 64 slots; got row"):
        make_engine().read_cache(row, length)


def test_nan_logits_are_an_error(make_engine, monkeypatch):
    engine = make_engine()
    step = engine.stepper.session.step

    def broken(*args):
        out = step(*args)
        out.logits[..., 3] = np.nan
        return out

    monkeypatch.setattr(engine.stepper.session, "step", broken)
    with pytest.raises(EngineError, match="nan"):
        engine.generate([1])


def test_a_chat_is_a_prompt(make_engine):
    """What the template is told reaches it, wherever a prompt goes."""
    engine = make_engine()
    template = "{{ messages[0].content }}{{ 'q' if quiet else '!' }}"
    engine.tokenizer.chat_templates = Tokenizer(engine.tokenizer.raw, template).chat_templates
    messages = [{"role": "user", "content": "ab"}]
    quiet = ChatOptions(arguments={"quiet": True})
    config = GenerationConfig(max_new_tokens=3)
    (result,) = engine.generate(Chat(messages, quiet), config)
    ids = engine.tokenizer.encode("abq")
    assert engine.chat_prompt(messages, quiet) == ids
    assert result.token_ids == engine.generate(ids, config)[0].token_ids
    both = engine.generate([Chat(messages), "abq"], config)
    assert both[0].prompt_tokens == 3 and both[1].token_ids == result.token_ids


def test_the_publishers_sampling_is_used_where_nothing_is_asked_for(make_engine):
    engine = make_engine()
    ids = [5, 6, 7]
    greedy = engine.generate(ids, GenerationConfig(max_new_tokens=20))[0].token_ids
    publisher = TextInfo(sampling=SamplingInfo(temperature=50.0))
    engine.manifest = replace(engine.manifest, text=publisher)
    config = GenerationConfig(max_new_tokens=20, seed=1)
    assert engine.generate(ids, config)[0].token_ids != greedy
    asked = replace(config, temperature=0.0)
    assert engine.generate(ids, asked)[0].token_ids == greedy
