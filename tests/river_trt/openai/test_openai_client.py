"""The openai client against a running server: what it gets is what the engine generates."""

import json
from typing import Literal

import openai
import pytest
from pydantic import BaseModel, ConfigDict

from river_trt import GenerationConfig
from tests.river_trt.conftest import LAYERS
from tests.river_trt.openai.conftest import client_of

MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture
def alone(make_chat_engine):
    """The same engine, asked directly."""
    return make_chat_engine()


def texts(engine, prompt, **config):
    return engine.generate(prompt, GenerationConfig(**config))[0].text


def test_a_completion_is_the_engines(served, alone):
    answer = served.client.completions.create(model="tiny", prompt="hello", max_tokens=8)
    assert answer.choices[0].text == texts(alone, "hello", max_new_tokens=8)
    assert answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 8)
    assert answer.usage.total_tokens == 13 and answer.object == "text_completion"


def test_sixteen_tokens_without_a_limit(served):
    answer = served.client.completions.create(
        model="tiny", prompt="hello", extra_body={"ignore_eos": True}
    )
    assert answer.usage.completion_tokens == 16


def test_all_four_forms_of_a_prompt(served, alone):
    ids = alone.tokenizer.encode("hello")
    for prompt, count in (("hello", 1), (["hello", "you"], 2), (ids, 1), ([ids, [1, 2]], 2)):
        answer = served.client.completions.create(model="tiny", prompt=prompt, max_tokens=3)
        assert [choice.index for choice in answer.choices] == list(range(count))
        assert answer.choices[0].text == texts(alone, "hello", max_new_tokens=3)


def test_n_choices_of_seeds_in_a_row(served, alone):
    answer = served.client.completions.create(
        model="tiny", prompt="hello", max_tokens=6, n=3, seed=5, temperature=1.0
    )
    for place, choice in enumerate(answer.choices):
        assert choice.text == texts(
            alone, "hello", max_new_tokens=6, seed=5 + place, temperature=1.0
        )
    assert answer.usage.prompt_tokens == 5 and answer.usage.completion_tokens <= 18


def test_a_stop_string_ends_a_text(served, alone):
    whole = texts(alone, "hello", max_new_tokens=12, ignore_eos=True)
    stop = whole[3:5]
    answer = served.client.completions.create(
        model="tiny", prompt="hello", max_tokens=12, stop=stop, extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].text == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_a_chat_goes_through_the_template(served, alone):
    answer = served.client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_completion_tokens=8
    )
    message = answer.choices[0].message
    assert (message.role, answer.object) == ("assistant", "chat.completion")
    ids = alone.tokenizer.encode("u:hello;a:", add_special_tokens=False)
    assert message.content == texts(alone, ids, max_new_tokens=8)
    shouted = served.client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=8,
        extra_body={"chat_template_kwargs": {"shout": "!"}},
    )
    assert shouted.usage.prompt_tokens == answer.usage.prompt_tokens + 1


@pytest.mark.parametrize("chat", [False, True])
def test_a_stream_is_the_whole_in_pieces(served, chat):
    usage = {"stream_options": {"include_usage": True}, "stream": True}
    if chat:
        ask = {"model": "tiny", "messages": MESSAGES, "max_tokens": 8}
        whole = served.client.chat.completions.create(**ask).choices[0].message.content
        parts = list(served.client.chat.completions.create(**ask, **usage))
        assert parts[0].choices[0].delta.role == "assistant"
        pieces = [part.choices[0].delta.content or "" for part in parts if part.choices]
    else:
        ask = {"model": "tiny", "prompt": "hello", "max_tokens": 8}
        whole = served.client.completions.create(**ask).choices[0].text
        parts = list(served.client.completions.create(**ask, **usage))
        pieces = [part.choices[0].text for part in parts if part.choices]
    assert "".join(pieces) == whole and len(pieces) > 3
    assert [part.choices[0].finish_reason for part in parts if part.choices][-1] == "length"
    assert parts[-1].choices == [] and parts[-1].usage.completion_tokens == 8
    assert len({part.id for part in parts}) == 1


def test_choices_of_a_stream_are_told_apart(served):
    ask = {"model": "tiny", "prompt": ["hello", "you"], "max_tokens": 5, "n": 2, "seed": 1}
    whole = [c.text for c in served.client.completions.create(**ask, temperature=1.0).choices]
    streamed = [""] * 4
    for part in served.client.completions.create(**ask, temperature=1.0, stream=True):
        streamed[part.choices[0].index] += part.choices[0].text
    assert streamed == whole


@pytest.mark.parametrize("mode", ["river", "lossless", "full"])
def test_rivers_own_fields(served, mode):
    answer = served.client.completions.create(
        model="tiny",
        prompt="hello",
        max_tokens=8,
        extra_body={"river": {"mode": mode, "trace": True}, "ignore_eos": True},
    )
    river = answer.usage.river
    assert river["num_layers"] == LAYERS
    trace = answer.choices[0].river
    assert len(trace["token_ids"]) == len(trace["exit_layers"]) == 8
    if mode != "river":
        assert trace["exit_layers"] == [LAYERS] * 8 and river["mean_backbone_layers"] == LAYERS
    assert ("drafted_tokens" in river) == (mode == "lossless")


def test_tau_and_pins_of_a_request(served):
    def layers(**river):
        answer = served.client.completions.create(
            model="tiny",
            prompt="hello",
            max_tokens=6,
            extra_body={"river": {"trace": True} | river, "ignore_eos": True},
        )
        return answer.choices[0].river["backbone_layers"][1:]

    assert set(layers(tau="-inf")) == {1}
    assert set(layers(tau="inf")) == {LAYERS}
    assert set(layers(tau=["-inf"] * LAYERS, pinned=[LAYERS])) == {2}


def test_a_trace_comes_in_the_stream_too(served):
    parts = served.client.completions.create(
        model="tiny",
        prompt="hello",
        max_tokens=5,
        stream=True,
        extra_body={"river": {"trace": True}, "ignore_eos": True},
    )
    found = [part.choices[0].river for part in parts]
    assert len(found) == 5 and all(1 <= one["exit_layer"] <= LAYERS for one in found)


def test_models_are_listed_and_named(start):
    served = start(names=("small", "large"))
    client = client_of(served.url)
    assert [model.id for model in client.models.list()] == ["small", "large"]
    assert client.models.retrieve("large").id == "large"
    with pytest.raises(openai.NotFoundError, match="no model 'other'; this server has small"):
        client.completions.create(model="other", prompt="x")
    assert client.completions.create(model="large", prompt="x", max_tokens=1).model == "large"


REFUSED = {
    "an unknown field": ({"colour": "red"}, "unrecognized request argument: colour", "colour"),
    "logprobs": ({"logprobs": 21}, "logprobs must be 0 to 20, got 21", "logprobs"),
    "a penalty": ({"presence_penalty": 2.5}, "presence_penalty must be", "presence_penalty"),
    "a bias": ({"logit_bias": {"7": 101}}, "logit_bias of token 7 must be", "logit_bias"),
    "a bias of no token": ({"logit_bias": {"x": 1}}, "must name token ids, got 'x'", "logit_bias"),
    "a bias beyond": ({"logit_bias": {"999": 1}}, "names token 999, outside", "logit_bias"),
    "a streamed echo": ({"echo": True, "stream": True}, "echo is not for streams", "echo"),
    "suffix": ({"suffix": "x"}, "suffix is not offered", "suffix"),
    "a format": (
        {"response_format": {"type": "xml"}},
        "'text', 'json_object' or 'json_schema'",
        "response_format.type",
    ),
    "no schema": (
        {"response_format": {"type": "json_schema"}},
        "needs json_schema",
        "response_format.json_schema",
    ),
    "a schema": (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
        'json_schema cannot be followed: Unimplemented keys: ["not"]',
        "response_format",
    ),
    "temperature": ({"temperature": -1}, "temperature must be a number at least 0", "temperature"),
    "no tokens": ({"max_tokens": 0}, "max_new_tokens must be", "max_tokens"),
    "n": ({"n": 0}, "n must be at least 1", "n"),
    "too many choices": ({"n": 17}, "makes 16 choices", "n"),
    "tau": ({"river": {"tau": [0.5]}}, "tau has 1 values", "river.tau"),
    "a pin": ({"river": {"pinned": [99]}}, "pinned layer 99", "river.pinned"),
    "a mode": ({"river": {"mode": "wild"}}, "'river', 'lossless' or 'full'", "river.mode"),
    "a type": ({"prompt": 7}, "prompt", "prompt"),
    "a long prompt": ({"prompt": "x" * 200}, "200 tokens but the cache has 96", "prompt"),
    "stream_options": ({"stream_options": {}}, "stream true", "stream_options"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(served, name):
    changes, message, param = REFUSED[name]
    body = {"model": "tiny", "prompt": "x"} | changes
    with pytest.raises(openai.BadRequestError) as caught:
        served.client.post("/completions", body=body, cast_to=object)
    assert message in caught.value.message and caught.value.body["param"] == param
    assert caught.value.body["type"] == "invalid_request_error"


def test_fields_of_other_services_change_nothing(served):
    plain = served.client.completions.create(model="tiny", prompt="x", max_tokens=4)
    more = served.client.completions.create(
        *(),
        model="tiny",
        prompt="x",
        max_tokens=4,
        user="me",
        presence_penalty=0,
        logit_bias={},
        echo=False,
        extra_body={"metadata": {"a": "b"}, "response_format": {"type": "text"}},
    )
    assert more.choices[0].text == plain.choices[0].text


def logprobs_of(engine, prompt, **config):
    given = {"max_new_tokens": 6, "ignore_eos": True} | config
    return engine.generate(prompt, GenerationConfig(**given))[0]


@pytest.mark.parametrize("mode", ["river", "lossless", "full"])
@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_a_chat(served, alone, mode, stream):
    answer = served.client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=6,
        logprobs=True,
        top_logprobs=3,
        stream=stream,
        extra_body={"river": {"mode": mode}, "ignore_eos": True},
    )
    parts = [part.choices[0] for part in answer] if stream else answer.choices
    found = [entry for part in parts if part.logprobs for entry in part.logprobs.content]
    ids = alone.tokenizer.encode("u:hello;a:", add_special_tokens=False)
    expected = logprobs_of(alone, ids, logprobs=3, mode=mode)
    assert [entry.logprob for entry in found] == [one.logprob for one in expected.logprobs]
    for entry, one in zip(found, expected.logprobs, strict=True):
        assert bytes(entry.bytes) == alone.tokenizer.token_bytes(one.token_id)
        assert [top.logprob for top in entry.top_logprobs] == [value for _, value in one.top]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_a_completion(served, alone, stream):
    answer = served.client.completions.create(
        model="tiny",
        prompt="hello",
        max_tokens=6,
        logprobs=2,
        stream=stream,
        extra_body={"ignore_eos": True},
    )
    parts = (
        [part.choices[0].logprobs for part in answer] if stream else [answer.choices[0].logprobs]
    )
    expected = logprobs_of(alone, "hello", logprobs=2)
    found = [value for part in parts for value in part.token_logprobs]
    assert found == [one.logprob for one in expected.logprobs]
    best = [value for part in parts for value in part.top_logprobs]
    assert [max(one.values()) for one in best] == [one.top[0][1] for one in expected.logprobs]
    offsets = [value for part in parts for value in part.text_offset]
    assert offsets[0] == 0 and offsets == sorted(offsets)


def test_echo_with_the_prompts_logprobs_as_lm_eval_asks(served, alone):
    answer = served.client.completions.create(
        model="tiny",
        prompt=[alone.tokenizer.encode("hello"), alone.tokenizer.encode("you")],
        max_tokens=1,
        logprobs=1,
        echo=True,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    for choice, prompt in zip(answer.choices, ("hello", "you"), strict=True):
        expected = logprobs_of(alone, prompt, logprobs=1, prompt_logprobs=1, max_new_tokens=1)
        known = [*expected.prompt_logprobs, *expected.logprobs]
        assert choice.text == prompt + expected.text
        assert choice.logprobs.tokens[: len(prompt)] == list(prompt)
        assert choice.logprobs.token_logprobs == [one.logprob for one in known]
        assert choice.logprobs.top_logprobs[0] is None
        assert choice.logprobs.text_offset[: len(prompt)] == list(range(len(prompt)))
    only = served.client.completions.create(
        model="tiny", prompt="hello", max_tokens=0, echo=True, logprobs=0
    )
    assert only.choices[0].text == "hello" and only.usage.completion_tokens == 0
    assert len(only.choices[0].logprobs.tokens) == 5


def test_penalties_and_biases_are_the_configs(served, alone):
    answer = served.client.completions.create(
        model="tiny",
        prompt="hello",
        max_tokens=12,
        presence_penalty=0.6,
        frequency_penalty=0.4,
        logit_bias={"65": 5},
        extra_body={"ignore_eos": True},
    )
    config = {"presence_penalty": 0.6, "frequency_penalty": 0.4, "logit_bias": {65: 5.0}}
    given = {"max_new_tokens": 12, "ignore_eos": True}
    assert answer.choices[0].text == texts(alone, "hello", **given, **config)


@pytest.mark.parametrize("mode", ["river", "lossless", "full"])
def test_json_by_a_schema(served, mode):
    schema = {
        "type": "object",
        "properties": {"is_blue": {"type": "boolean"}, "n": {"enum": [1, 20, 300]}},
        "required": ["is_blue", "n"],
        "additionalProperties": False,
    }
    answer = served.client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=60,
        n=3,
        temperature=1.0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "sky", "strict": True, "schema": schema},
        },
        extra_body={"river": {"mode": mode}},
    )
    for choice in answer.choices:
        value = json.loads(choice.message.content)
        assert value["is_blue"] in (True, False) and value["n"] in (1, 20, 300)
        assert choice.finish_reason == "stop"


def test_any_json_object(served, alone):
    (end,) = alone.tokenizer.encode("}")
    answer = served.client.chat.completions.create(
        model="tiny",
        messages=MESSAGES,
        max_tokens=20,
        logit_bias={str(end): 100},
        response_format={"type": "json_object"},
    )
    assert answer.choices[0].message.content == "{}"


def test_content_may_come_in_parts(served):
    def ask(content):
        messages = [{"role": "user", "content": content}]
        return served.client.chat.completions.create(
            model="tiny", messages=messages, max_tokens=4
        ).usage.prompt_tokens

    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": "you"}]
    assert ask(parts) == ask("hello\nyou")
    for wrong in ([{"type": "image_url", "image_url": {"url": "x"}}], [{"text": "x"}], ["x"]):
        with pytest.raises(openai.BadRequestError, match="messages.0.content must be") as caught:
            ask(wrong)
        assert caught.value.body["param"] == "messages"


def test_vllms_stream_options_are_known(served):
    options = {"include_usage": True, "continuous_usage_stats": True}
    parts = served.client.completions.create(
        model="tiny", prompt="x", max_tokens=2, stream=True, stream_options=options
    )
    assert list(parts)[-1].usage.completion_tokens == 2


def test_lm_eval_is_told_the_tokenizer(served):
    info = served.client.get("/../tokenizer_info", cast_to=object)
    assert (info["bos_token"], info["eos_token"]) == ("<s>", "</s>")
    assert "{% for m in messages %}" in info["chat_template"]


class Sky(BaseModel):
    """What the client makes a schema of, and reads the answer by."""

    model_config = ConfigDict(extra="forbid")
    is_blue: bool
    clouds: Literal["none", "few", "many"]


def test_the_client_parses_what_it_asked_for(served):
    ask = {"model": "tiny", "messages": MESSAGES, "max_tokens": 60, "temperature": 1.0}
    answer = served.client.chat.completions.parse(**ask, response_format=Sky)
    assert answer.choices[0].message.parsed.clouds in ("none", "few", "many")
    with served.client.chat.completions.stream(**ask, response_format=Sky) as stream:
        kinds = {event.type for event in stream}
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Sky)
    assert "content.delta" in kinds and "content.done" in kinds
