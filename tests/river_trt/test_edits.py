"""What a request adds to the logits, holds them to, and is told of them."""

import json

import numpy as np
import pytest

from river_trt import GenerationConfig
from river_trt.errors import RiverError
from river_trt.grammar import Grammar, Grammars
from river_trt.spec import ExitPolicy
from river_trt.text import Tokenizer
from tests.river_trt.conftest import LAYERS, next_logits
from tests.river_trt.text import kinds

PROMPT = [5, 6, 7]


def log_softmax(logits):
    scores = logits.astype(np.float64)
    return scores - np.log(np.exp(scores).sum())


def tokens(engine, prompt=PROMPT, **config):
    given = {"max_new_tokens": 20, "ignore_eos": True} | config
    return engine.generate(prompt, GenerationConfig(**given))[0].token_ids


def test_penalties_count_the_text_and_not_the_prompt(make_engine):
    engine, text = make_engine(), []
    for _ in range(30):
        logits = next_logits(np.array(PROMPT + text))
        for token in set(text):
            logits[token] -= np.float32(1.0 + 0.5 * text.count(token))
        text.append(int(logits.argmax()))
    found = tokens(engine, max_new_tokens=30, presence_penalty=1.0, frequency_penalty=0.5)
    assert found == text and found != tokens(engine, max_new_tokens=30)


def test_a_bias_is_added(make_engine):
    engine = make_engine()
    assert set(tokens(engine, logit_bias={77: 100})) == {77}
    plain = tokens(engine)
    assert not {*plain} & {*tokens(engine, logit_bias=dict.fromkeys(plain, -100))}
    assert tokens(engine, logit_bias={77: 0.0}) == plain


def test_rows_of_a_batch_are_edited_one_by_one(make_engine):
    prompts = [[1, 2], [3], [4, 5, 6]]
    options = {"logit_bias": {9: 4.0}, "frequency_penalty": 1.0, "temperature": 1.0, "seed": 0}
    config = GenerationConfig(max_new_tokens=20, ignore_eos=True, **options)
    together = make_engine().generate(prompts, config)
    for place, result in enumerate(together):
        alone = tokens(make_engine(), prompts[place], **(options | {"seed": place}))
        assert result.token_ids == alone


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_are_the_models_own(make_engine, temperature):
    config = GenerationConfig(
        max_new_tokens=8,
        ignore_eos=True,
        logprobs=4,
        temperature=temperature,
        seed=1,
        logit_bias={9: 5.0},
    )
    events = list(make_engine().stream(PROMPT, config))
    result = events[-1].result
    assert result.logprobs == [event.logprobs for event in events]
    for place, known in enumerate(result.logprobs):
        expected = log_softmax(next_logits(np.array(PROMPT + result.token_ids[:place])))
        assert known.token_id == result.token_ids[place]
        assert known.logprob == pytest.approx(expected[known.token_id])
        assert [token for token, _ in known.top] == np.argsort(-expected)[:4].tolist()
        assert [value for _, value in known.top] == pytest.approx(sorted(expected)[:-5:-1])


@pytest.mark.parametrize("mode", ["river", "full", "lossless"])
@pytest.mark.parametrize("prefill_chunk", [2, 512])
def test_prompt_logprobs_are_those_of_the_mode_and_change_no_text(
    make_engine, mode, prefill_chunk, monkeypatch
):
    engine = make_engine(prefill_chunk=prefill_chunk, tau=0.5)
    prompt = list(range(20, 31))
    scored = []
    step = engine.stepper.session.step

    def watched(given):
        if given.num_logits == given.seq and given.past_lengths[0] < len(prompt) - 1:
            scored.append(given.policy.tau.tolist())
        return step(given)

    monkeypatch.setattr(engine.stepper.session, "step", watched)
    config = GenerationConfig(
        max_new_tokens=4, ignore_eos=True, prompt_logprobs=1, logprobs=0, mode=mode
    )
    (result,) = engine.generate(prompt, config)
    expected = ExitPolicy.uniform(LAYERS, 0.5 if mode == "river" else np.inf)
    assert expected.tau.tolist() in scored
    assert [one.token_id for one in result.prompt_logprobs] == prompt
    assert result.prompt_logprobs[0].logprob is None
    for place, known in enumerate(result.prompt_logprobs[1:], 1):
        logprobs = log_softmax(next_logits(np.array(prompt[:place])))
        assert known.logprob == pytest.approx(logprobs[known.token_id])
        assert known.top[0] == (logprobs.argmax(), pytest.approx(logprobs.max()))
    assert result.token_ids == tokens(engine, prompt, max_new_tokens=4, mode=mode)
    assert all(one.top == () for one in result.logprobs)


def test_a_prompt_of_one_token_has_nothing_to_score(make_engine):
    config = GenerationConfig(max_new_tokens=2, prompt_logprobs=1)
    (result,) = make_engine().generate([5], config)
    assert [(one.token_id, one.logprob) for one in result.prompt_logprobs] == [(5, None)]


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("mode", ["river", "full", "lossless"])
def test_texts_hold_to_their_schema(make_engine, mode, temperature):
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 20}},
        "required": ["n"],
        "additionalProperties": False,
    }
    config = GenerationConfig(
        max_new_tokens=40, json_schema=schema, mode=mode, temperature=temperature, seed=2
    )
    for result in make_engine().generate([[1], [2, 3], [4]], config):
        assert 3 <= json.loads(result.text)["n"] <= 20 and result.finish_reason == "eos"


REFUSED = {
    "presence_penalty must be a number of at least -2": {"presence_penalty": 3},
    "logit_bias of token 5 must be": {"logit_bias": {5: 1000}},
    "a token id in logit_bias must be": {"logit_bias": {"5": 1}},
    "logprobs may be 20 at most, got 21": {"logprobs": 21},
    "prompt_logprobs must be a whole number": {"prompt_logprobs": -1},
    "json_schema must be a JSON object": {"json_schema": "[1]"},
    "json_schema may have 65536": {"json_schema": {"const": "x" * 70000}},
    "ignore_eos is not for a text": {"json_schema": {}, "ignore_eos": True},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_no_config_may_hold(message):
    with pytest.raises(RiverError, match=message):
        GenerationConfig(**REFUSED[message])


def test_what_an_engine_refuses(make_engine):
    engine = make_engine()
    with pytest.raises(RiverError, match=r"logit_bias names token 260, outside .* 0..259"):
        engine.generate("a", GenerationConfig(logit_bias={260: 1}))
    with pytest.raises(RiverError, match='cannot be followed: Unimplemented keys: \\["not"\\]'):
        engine.generate("a", GenerationConfig(json_schema={"not": {}}))
    with pytest.raises(RiverError, match="json_schema needs a tokenizer"):
        without = make_engine(with_tokenizer=False)
        without.generate([1], GenerationConfig(json_schema={}))


@pytest.mark.parametrize("kind", [kinds.byte_level, kinds.llama2, kinds.gemma])
def test_schemas_with_tokenizers_of_bytes(kind):
    raw = kind()
    grammars = Grammars(Tokenizer(raw), raw.get_vocab_size(), [0])
    grammar, text = grammars.start('{"enum": ["a b", "a c"]}'), []
    while not grammar.mask()[0]:
        text.append(int(np.flatnonzero(grammar.mask())[0]))
        grammar.push(text[-1])
    assert json.loads(raw.decode(text)) in ("a b", "a c")


def test_a_tokenizer_that_has_no_bytes_is_refused():
    raw = kinds.wordpiece()
    with pytest.raises(RiverError, match="json_schema needs a tokenizer of bytes"):
        Grammars(Tokenizer(raw), raw.get_vocab_size(), [0])


HOSTILE = {
    "deep": {"items": None},
    "many properties": {"properties": {f"p{i}": {} for i in range(1500)}},
    "itself": {"$ref": "#"},
    "elsewhere": {"$ref": "http://127.0.0.1:1/x"},
    "a file": {"$ref": "file:///etc/passwd"},
    "alternatives": {
        "allOf": [
            {"anyOf": [{"type": "object", "properties": {f"p{i}{j}": {}}} for j in range(3)]}
            for i in range(12)
        ]
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_schema_is_refused_in_one_sentence(make_engine, name):
    schema = HOSTILE[name]
    if name == "deep":
        for _ in range(200):
            schema = {"type": "array", "items": schema}
    with pytest.raises(
        RiverError,
        match=r"(json_schema cannot be followed|cannot follow its json_schema further): ",
    ) as caught:
        make_engine().generate("a", GenerationConfig(json_schema=schema))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("mode", ["river", "full", "lossless"])
def test_a_grammar_that_gives_up_ends_its_own_row(make_engine, mode, monkeypatch):
    """Where llguidance reaches a limit in the middle of a text."""
    engine = make_engine()
    text = GenerationConfig(json_schema={"type": "string", "minLength": 30}, mode=mode)
    plain = GenerationConfig(max_new_tokens=20, ignore_eos=True, mode=mode)
    scheduler = engine.scheduler()
    bad, good = scheduler.submit([1], text), scheduler.submit([2], plain)
    push, calls = Grammar.push, []

    def limited(self, token):
        calls.append(token)
        push(self, token if len(calls) < 5 else 10**6)  # no token at all

    monkeypatch.setattr(Grammar, "push", limited)
    endings = {}
    while scheduler.has_work:
        for delivery in scheduler.step():
            if delivery.is_last:
                endings[delivery.request] = delivery.item
    assert "cannot follow its json_schema further" in str(endings[bad])
    assert len(endings[good].result.token_ids) == 20
