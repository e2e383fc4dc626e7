import json

import numpy as np
import pytest

from river_trt import Chat, ChatOptions, GenerationConfig, RiverError
from river_trt.triton.ask import read_ask
from river_trt.triton.fields import TRTLLM, VLLM


def tensors(batched=False, **values):
    """As Triton hands them over: strings as bytes in an object array."""
    made = {}
    for name, value in values.items():
        items = value if isinstance(value, list) else [value]
        if isinstance(items[0], str | bytes) if items else True:
            array = np.array([v.encode() if isinstance(v, str) else v for v in items], np.object_)
        else:
            kinds = {bool: np.bool_, int: np.int32, float: np.float32}
            array = np.array(items, kinds[type(items[0])])
        made[name] = array[None] if batched else array
    return made


def ask(layout=VLLM, parameters="", **values):
    return read_ask(layout, tensors(layout.batched, **values), parameters)


def test_prompt_alone_gets_the_runtimes_defaults():
    made = ask(text_input="hello")
    assert made.prompt == "hello" and made.config == GenerationConfig()
    assert made.echo and not made.stream  # as vLLM's clients expect
    assert not ask(TRTLLM, text_input="hello").echo


def test_parameters_come_as_tensors_as_json_or_beside_the_inputs():
    wanted = GenerationConfig(
        max_new_tokens=9, temperature=0.7, top_k=5, top_p=0.9, seed=3, stop=["x"], tau=0.5
    )
    as_json = {
        "max_tokens": 9,
        "temperature": 0.7,
        "top_k": 5,
        "top_p": "0.9",
        "seed": 3,
        "stop": "x",
        "tau": 0.5,
    }
    assert ask(text_input="a", sampling_parameters=json.dumps(as_json)).config == wanted
    assert ask(text_input="a", parameters=json.dumps(as_json)).config == wanted
    renamed = {k: v for k, v in as_json.items() if k not in ("seed", "stop")} | {"top_p": 0.9}
    assert ask(TRTLLM, text_input="a", random_seed=3, stop_words=["x"], **renamed).config == wanted


def test_policy_of_a_request():
    config = ask(text_input="a", tau=[0.5, float("inf"), float("-inf")], pinned=[1, 3]).config
    assert config.tau == (0.5, float("inf"), float("-inf")) and config.pinned == (1, 3)
    text = json.dumps({"tau": "inf", "pinned": [], "prefill": "sequence"})
    config = ask(text_input="a", sampling_parameters=text).config
    assert (config.tau, config.pinned, config.prefill) == (float("inf"), (), "sequence")


def test_lossless_mode_of_a_request():
    wanted = GenerationConfig(mode="lossless", max_draft_tokens=3, pinned=[2])
    text = json.dumps({"mode": "lossless", "max_draft_tokens": 3, "pinned": 2})
    assert ask(text_input="a", sampling_parameters=text).config == wanted
    values = {"mode": "lossless", "max_draft_tokens": 3, "pinned": [2]}
    assert ask(TRTLLM, text_input="a", **values).config == wanted


def test_penalties_and_biases_of_a_request():
    penalties = {"presence_penalty": 0.5, "frequency_penalty": -0.25}
    text = json.dumps(penalties | {"logit_bias": {"65": 5, "7": -100}})
    wanted = GenerationConfig(**penalties, logit_bias={65: 5.0, 7: -100.0})
    assert ask(text_input="a", sampling_parameters=text).config == wanted
    assert ask(TRTLLM, text_input="a", **penalties).config == GenerationConfig(**penalties)


def test_values_without_effect_are_taken():
    text = '{"n": 1, "best_of": 1, "top_k": -1, "skip_special_tokens": true}'
    assert ask(text_input="a", sampling_parameters=text).config == GenerationConfig(top_k=0)
    neutral = {"bad_words": [""], "stop_words": [""], "beam_width": 1, "min_length": 1}
    assert ask(TRTLLM, text_input="a", **neutral).config == GenerationConfig()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "text_input is missing"),
        ({"text_input": b"\xff"}, "text_input is not UTF-8"),
        ({"text_input": ["a", "b"]}, "text_input must hold one value, got 2"),
        ({"parameters": '{"temperature": -1}'}, "temperature must be .* at least 0, got -1.0"),
        ({"parameters": '{"max_tokens": 0}'}, "max_tokens.*at least 1, got 0"),
        ({"parameters": '{"top_p": 2}'}, "top_p must be"),
        ({"pinned": [0]}, "pinned"),
        ({"parameters": '{"prefill": "maybe"}'}, "prefill must be one of"),
        ({"parameters": '{"mode": "exact"}'}, "mode must be one of river, lossless, full"),
        ({"parameters": '{"mode": "lossless", "tau": 0.9}'}, "^tau 0.9 is for the mode 'river'"),
        ({"parameters": '{"presence_penalty": 3}'}, "presence_penalty must be.*at most 2, got 3"),
        ({"sampling_parameters": '{"logit_bias": [1]}'}, "logit_bias must be an object"),
        ({"sampling_parameters": '{"logit_bias": {"a": 1}}'}, "logit_bias must be an object"),
        ({"sampling_parameters": '{"logit_bias": {"5": 101}}'}, "logit_bias of token 5 must be"),
        ({"sampling_parameters": "{"}, "sampling_parameters is no JSON"),
        ({"sampling_parameters": "[1]"}, "sampling_parameters must be a JSON object"),
        ({"sampling_parameters": '{"temprature": 1}'}, "temprature is no parameter.*temperature"),
        ({"sampling_parameters": '{"n": 2}'}, "n is not supported, got 2"),
        ({"sampling_parameters": '{"max_tokens": "many"}'}, "max_tokens must be a whole number"),
        ({"sampling_parameters": '{"max_tokens": 1.5}'}, "max_tokens must be a whole number"),
        ({"sampling_parameters": '{"max_tokens": Infinity}'}, "max_tokens must be a whole number"),
        ({"sampling_parameters": '{"seed": NaN}'}, "seed must be a whole number"),
        ({"sampling_parameters": '{"ignore_eos": 1}'}, "ignore_eos must be true or false"),
        ({"sampling_parameters": '{"stop": [1]}'}, "stop must be a string or a list"),
        ({"sampling_parameters": '{"tau": "NaN"}'}, "tau.*NaN"),
        ({"sampling_parameters": '{"tau": {}}'}, "tau must be a number or one a layer"),
        ({"sampling_parameters": '{"tau": 1}', "tau": [1.0]}, "tau is given twice"),
        ({"parameters": '{"colour": "red"}'}, "colour is no parameter"),
        ({"stream": True, "exclude_input_in_output": False}, "exclude_input_in_output must be"),
    ],
)
def test_error_names_the_field(values, message):
    if values:
        values = {"text_input": "a"} | values
    with pytest.raises(RiverError, match=message):
        ask(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"bad_words": ["x"]}, "bad_words is not supported, got 'x'"),
        ({"beam_width": 4}, "beam_width is not supported, got 4"),
        ({"max_tokens": -1}, "max_tokens"),
    ],
)
def test_error_names_the_field_of_the_trtllm_layout(values, message):
    with pytest.raises(RiverError, match=message):
        ask(TRTLLM, text_input="a", **values)


def test_seed_is_called_random_seed_where_the_client_knows_it_so():
    with pytest.raises(RiverError, match="random_seed must be a whole number"):
        ask(TRTLLM, text_input="a", random_seed=-1)


def test_two_prompts_in_one_request_are_refused():
    two = {"text_input": np.array([[b"a"], [b"b"]], np.object_)}
    with pytest.raises(RiverError, match="text_input holds 2 rows; send one prompt a request"):
        read_ask(TRTLLM, two, "")


def test_a_chat_comes_as_messages_with_vllms_names():
    messages = [{"role": "user", "content": "hi"}]
    values = {"messages": messages, "chat_template_kwargs": {"enable_thinking": False}}
    expected = Chat(messages, ChatOptions(arguments={"enable_thinking": False}))
    made = ask(text_input="", sampling_parameters=json.dumps(values | {"temperature": 0.5}))
    assert made.prompt == expected and not made.echo and made.config.temperature == 0.5
    texts = {name: json.dumps(value) for name, value in values.items()}  # Triton knows no lists
    assert ask(TRTLLM, text_input="", parameters=json.dumps(texts)).prompt == expected


@pytest.mark.parametrize(
    ("text", "values", "message"),
    [
        ("x", {"messages": []}, "text_input must be empty where messages are given"),
        ("x", {"chat_template_kwargs": {}}, "chat_template_kwargs is for a chat, whose messages"),
        ("", {"messages": "[", "tools": []}, "messages is no JSON"),
        ("", {"messages": [], "chat_template_kwargs": [1]}, "template arguments must be a JSON"),
    ],
)
def test_what_is_no_chat(text, values, message):
    with pytest.raises(RiverError, match=message):
        ask(text_input=text, sampling_parameters=json.dumps(values))
