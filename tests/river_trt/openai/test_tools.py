"""Tools: the template shows them, and calls in the text are read from it."""

import json
from dataclasses import replace

import openai
import pytest

from river_trt.openai.tools import ToolCall, may_open, parse_calls
from river_trt.serving.server import Server

HERMES = '<tool_call>\n{"name": "weather", "arguments": {"city": "Basel"}}\n</tool_call>'
LLAMA = '{"name": "weather", "parameters": {"city": "Basel"}}'
BASEL = ToolCall("weather", '{"city": "Basel"}')
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
MESSAGES = [{"role": "user", "content": "how is it?"}]


@pytest.mark.parametrize(
    ("text", "rest", "calls"),
    [
        (HERMES, "", [BASEL]),
        (f"Let me look.\n{HERMES}\n{HERMES}", "Let me look.", [BASEL, BASEL]),
        (LLAMA, "", [BASEL]),
        (f" {LLAMA}; {LLAMA}", "", [BASEL, BASEL]),
        ('{"name": "weather", "parameters": "{\\"city\\": \\"Basel\\"}"}', "", [BASEL]),
        ('{"name": "weather"}', "", [ToolCall("weather", "{}")]),
        ("It rains.", "It rains.", []),
        (LLAMA[:-1], LLAMA[:-1], []),
        (HERMES[:-3], HERMES[:-3], []),
        (LLAMA.replace("weather", "rm"), LLAMA.replace("weather", "rm"), []),
        ('{"name": "weather", "arguments": [1]}', '{"name": "weather", "arguments": [1]}', []),
        ('{"name": ["weather"]}', '{"name": ["weather"]}', []),
        ("[" * 100_000, "[" * 100_000, []),
    ],
)
def test_calls_are_read_and_everything_else_is_text(text, rest, calls):
    assert parse_calls(text, ("weather",)) == (rest, calls)


def test_what_may_become_a_call_is_known_early():
    assert all(may_open(text) for text in ("", " ", "<", "<tool_c", HERMES, "{", LLAMA))
    assert not any(may_open(text) for text in ("I", "<b>", "[", "<tool_x"))


@pytest.fixture
def says(served, monkeypatch):
    """says(text): the model writes it, three characters a token."""

    def say(text):
        stream = Server.stream

        async def saying(self, prompt, config=None):
            pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
            async for event in stream(self, prompt, replace(config, max_new_tokens=len(pieces))):
                piece, event = pieces.pop(0), event
                if event.result is not None:
                    result = replace(event.result, text=text, finish_reason="eos")
                    event = replace(event, result=result, finish_reason="eos")
                yield replace(event, text=piece)

        monkeypatch.setattr(Server, "stream", saying)
        return served.client

    return say


def test_a_call_in_a_whole_answer(says):
    answer = says(f"Look: {HERMES}").chat.completions.create(
        model="tiny", messages=MESSAGES, tools=[TOOL], extra_body={"ignore_eos": True}
    )
    choice = answer.choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Look:")
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (
        "weather",
        {"city": "Basel"},
    )


def test_a_call_in_a_stream(says):
    parts = list(
        says(LLAMA).chat.completions.create(
            model="tiny",
            messages=MESSAGES,
            tools=[TOOL],
            stream=True,
            extra_body={"ignore_eos": True},
        )
    )
    assert len(parts) == 2  # who speaks; the call
    delta = parts[-1].choices[0].delta
    assert delta.content is None and delta.tool_calls[0].function.name == "weather"
    assert parts[-1].choices[0].finish_reason == "tool_calls"


def test_a_text_in_a_stream_with_tools_is_not_held_back(says):
    parts = list(
        says("It rains a lot.").chat.completions.create(
            model="tiny",
            messages=MESSAGES,
            tools=[TOOL],
            stream=True,
            extra_body={"ignore_eos": True},
        )
    )
    pieces = [part.choices[0].delta.content or "" for part in parts]
    assert len([piece for piece in pieces if piece]) == 5 and "".join(pieces) == "It rains a lot."
    assert parts[-1].choices[0].finish_reason == "stop"


def test_tool_choice_none_shows_no_tools(says):
    client = says(LLAMA)
    ask = {"model": "tiny", "messages": MESSAGES, "tools": [TOOL]}
    answer = client.chat.completions.create(
        **ask, tool_choice="none", extra_body={"ignore_eos": True}
    )
    assert answer.choices[0].message.content == LLAMA and not answer.choices[0].message.tool_calls
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(model="tiny", messages=MESSAGES, tools=[{"type": "x"}])


PLACE = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/City"}},
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"City": {"enum": ["Basel", "Bern"]}},
}
TWO = [
    {"type": "function", "function": {"name": "weather", "parameters": PLACE}},
    {"type": "function", "function": {"name": "stop", "parameters": {"const": {"now": "a;b"}}}},
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", "weather", "stop"])
@pytest.mark.parametrize("mode", ["river", "lossless"])
def test_a_call_that_must_come_is_one_by_its_schema(served, choice, stream, mode):
    named = {"type": "function", "function": {"name": choice}}
    answer = served.client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "x"}],
        tools=TWO,
        tool_choice=choice if choice == "required" else named,
        max_tokens=80,
        stream=stream,
        extra_body={"river": {"mode": mode}},
    )
    if stream:
        (call,) = [c for part in answer for c in part.choices[0].delta.tool_calls or ()]
    else:
        assert answer.choices[0].finish_reason == "tool_calls"
        (call,) = answer.choices[0].message.tool_calls
    assert choice in ("required", call.function.name)
    arguments = json.loads(call.function.arguments)
    if call.function.name == "stop":
        assert arguments == {"now": "a;b"}
    else:
        assert arguments["city"] in ("Basel", "Bern")


@pytest.mark.parametrize(
    ("more", "message", "param"),
    [
        ({"tool_choice": "required", "tools": []}, "a tool that tools has not", "tool_choice"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "rm"}}},
            "a tool that tools has not",
            "tool_choice",
        ),
        ({"tool_choice": "must"}, "tool_choice", "tool_choice"),
        (
            {"tool_choice": "required", "response_format": {"type": "json_object"}},
            "exclude each other",
            "tool_choice",
        ),
        (
            {
                "tool_choice": "required",
                "tools": [
                    {"type": "function", "function": {"name": "x", "parameters": {"not": {}}}}
                ],
            },
            "cannot be followed",
            "tools",
        ),
    ],
)
def test_a_choice_that_cannot_be_is_named(served, more, message, param):
    body = {"model": "tiny", "messages": MESSAGES, "tools": [TOOL]} | more
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        served.client.post("/chat/completions", body=body, cast_to=object)
    assert caught.value.body["param"] == param
