"""`chat_text` is what transformers' apply_chat_template says: every family, every feature."""

import itertools
from pathlib import Path
from typing import Any

import jinja2
import pytest

from builders.families import FAMILIES
from river_trt.errors import RiverError
from river_trt.text import ChatOptions, Tokenizer
from tests.builders.text.saved import ours, save, template, theirs
from tests.river_trt.text.kinds import byte_level, gemma, llama2

USER = {"role": "user", "content": "  Wie spät ist es? <b>&\n"}
ASSISTANT = {"role": "assistant", "content": "\nTen o'clock. 🦊 "}
SYSTEM = {"role": "system", "content": "Be brief. "}
CALL = {"name": "clock", "arguments": {"zone": "<é>", "hours": 12}}
TOOL = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "Tells the time & day",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}},
    },
}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "a question": [USER],
    "a system prompt": [SYSTEM, USER],
    "an answer": [USER, ASSISTANT, USER],
    "all of them": [SYSTEM, USER, ASSISTANT, USER, ASSISTANT],
    "two questions": [USER, USER],
    "no thinking asked for": [{"role": "system", "content": "Brief. /no_think"}, USER, ASSISTANT],
    "values that are null": [{**USER, "tool_calls": None, "name": None}],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "What?"}]}],
    "reasoning": [USER, {**ASSISTANT, "reasoning_content": "\nhm\n"}, USER],
    "reasoning by another name": [USER, {**ASSISTANT, "reasoning": "hm"}],
    "thinking in the text": [USER, {"role": "assistant", "content": "<think>\na\n</think>\n\nb"}],
    "a call": [
        USER,
        {"role": "assistant", "tool_calls": [{"id": "abcdefghi", "function": CALL}]},
        {"role": "tool", "content": '{"time": "10:00"}', "tool_call_id": "abcdefghi"},
        {"role": "tool", "content": "second"},
        ASSISTANT,
    ],
}
QWEN = {"eos_token": "<|im_end|>", "pad_token": "<|im_start|>", "bos_token": None}
LLAMA2 = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": {"__type": "AddedToken", "content": "<s>"},
}
LLAMA3 = {"bos_token": "<s>", "eos_token": "</s>"}
# Template, tokenizer of its kind, tokenizer_config.json; the families that publish it.
MODELS: dict[str, tuple[Any, dict[str, Any], tuple[str, ...]]] = {
    "llama2": (llama2, LLAMA2, ("llama", "mistral")),
    "llama3": (byte_level, LLAMA3, ("llama",)),
    "smollm2": (byte_level, QWEN | {"bos_token": "<|im_start|>"}, ("llama",)),
    "smollm3": (byte_level, QWEN, ("smollm3",)),
    "qwen2": (byte_level, QWEN, ("qwen2",)),
    "qwen3": (byte_level, QWEN, ("qwen3",)),
    "mistral": (llama2, LLAMA2, ("mistral",)),
    "ministral": (byte_level, LLAMA3, ("ministral", "ministral3")),
    "phi3": (llama2, LLAMA2, ("phi3",)),
    "phi4": (byte_level, LLAMA3, ("phi3",)),
    "gemma2": (gemma, LLAMA3, ("gemma2",)),
    "gemma3": (gemma, LLAMA3, ("gemma3",)),
    "features": (byte_level, LLAMA3, ()),
}


def pair(directory: Path, name: str, **config: Any) -> tuple[Any, Tokenizer]:
    make, special, _ = MODELS[name]
    save(directory, make(), **(special | {"chat_template": template(name)} | config))
    return theirs(directory), ours(directory)


def said(render: Any, *args: Any, **kwargs: Any) -> str | None:
    """None for a refusal; transformers lets the template's own errors through."""
    try:
        text: str = render(*args, **kwargs)
    except (ValueError, TypeError, jinja2.TemplateError):  # RiverError is a ValueError
        return None
    return text


@pytest.mark.parametrize("name", MODELS)
def test_text_of_every_conversation(name: str, tmp_path: Path) -> None:
    their, our = pair(tmp_path, name)
    taken = 0
    for messages, begin, tools in itertools.product(
        CONVERSATIONS.values(), (True, False), (None, [TOOL])
    ):
        ask = {"tools": tools, "add_generation_prompt": begin}
        expected = said(their.apply_chat_template, messages, tokenize=False, **ask)
        options = ChatOptions(**ask)
        assert said(our.chat_text, messages, options) == expected, (messages, options)
        if expected is not None:
            ids = their.apply_chat_template(messages, **ask)
            assert our.chat_prompt(messages, options) == ids["input_ids"]
            taken += 1
    assert taken >= 8


def test_every_family_is_among_them() -> None:
    shown = {family for _, _, families in MODELS.values() for family in families}
    assert shown == {family.name for family in FAMILIES}


@pytest.mark.parametrize("name", ["qwen3", "smollm3", "features"])
@pytest.mark.parametrize(
    "arguments", [{"enable_thinking": False}, {"enable_thinking": True}, {"extra": [1, "é"]}]
)
def test_arguments_of_the_template(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    their, our = pair(tmp_path, name)
    for messages in ([USER], [SYSTEM, USER, ASSISTANT, USER]):
        expected = their.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **arguments
        )
        assert our.chat_text(messages, ChatOptions(arguments=arguments)) == expected


def test_arguments_win_over_special_tokens_and_documents_are_shown(tmp_path: Path) -> None:
    their, our = pair(tmp_path, "features")
    documents = [{"title": "t", "text": "x"}]
    expected = their.apply_chat_template(
        [USER], tokenize=False, documents=documents, bos_token="mine", extra=True
    )
    arguments = {"bos_token": "mine", "extra": True}
    options = ChatOptions(documents=documents, arguments=arguments, add_generation_prompt=False)
    assert our.chat_text([USER], options) == expected


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("features", "phi4")])
@pytest.mark.parametrize("content", ["The time is", "The time is ", "  10"])
def test_a_last_message_that_the_model_continues(name: str, content: str, tmp_path: Path) -> None:
    their, our = pair(tmp_path, name)
    messages = [USER, {"role": "assistant", "content": content}]
    expected = said(
        their.apply_chat_template, messages, tokenize=False, continue_final_message=True
    )
    options = ChatOptions(continue_final_message=True)
    assert said(our.chat_text, messages, options) == expected is not None


@pytest.mark.parametrize(
    "config",
    [
        {"bos_token": None, "eos_token": None},
        {},
        {"bos_token": {"__type": "AddedToken", "content": "<s>"}, "eos_token": "</s>"},
        {f"{name}_token": "</s>" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")},
    ],
)
def test_special_tokens_are_what_the_tokenizers_config_says(
    config: dict[str, Any], tmp_path: Path
) -> None:
    save(tmp_path, byte_level(), chat_template=template("features"), **config)
    their, our = theirs(tmp_path), ours(tmp_path)
    expected = their.apply_chat_template([USER], tokenize=False)
    assert our.chat_text([USER], ChatOptions(add_generation_prompt=False)) == expected


def test_special_tokens_of_an_older_file(tmp_path: Path) -> None:
    save(tmp_path, byte_level(), chat_template="{{ bos_token }}|{{ eos_token }}", eos_token="</s>")
    old = '{"bos_token": {"content": "<s>"}, "eos_token": "<|im_end|>"}'
    (tmp_path / "special_tokens_map.json").write_text(old)
    expected = theirs(tmp_path).apply_chat_template([USER], tokenize=False)
    assert ours(tmp_path).chat_text([USER]) == expected == "<s>|<|im_end|>"


NAMED = {"default": "one {{ messages[0].role }}", "tool_use": "tools", "rag": "documents"}


@pytest.mark.parametrize("form", ["list", "dictionary", "files"])
def test_named_templates(form: str, tmp_path: Path) -> None:
    stated: Any = NAMED
    if form == "list":
        stated = [{"name": name, "template": source} for name, source in NAMED.items()]
    save(tmp_path, byte_level(), **({} if form == "files" else {"chat_template": stated}))
    if form == "files":
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "chat_template.jinja").write_text(NAMED["default"])
        for name in ("tool_use", "rag"):
            (tmp_path / "additional_chat_templates" / f"{name}.jinja").write_text(NAMED[name])
    their, our = theirs(tmp_path), ours(tmp_path)
    for tools, name in itertools.product((None, [TOOL]), (None, *NAMED)):
        expected = their.apply_chat_template(
            [USER], tokenize=False, tools=tools, chat_template=name
        )
        assert our.chat_text([USER], ChatOptions(tools=tools, template=name)) == expected
    with pytest.raises(RiverError, match=r"no chat template 'x'; choose one of default, rag, tool"):
        our.chat_text([USER], ChatOptions(template="x"))


def test_names_without_a_default(tmp_path: Path) -> None:
    save(tmp_path, byte_level(), chat_template={"rag": "documents"})
    with pytest.raises(RiverError, match="no default chat template; choose one of rag"):
        ours(tmp_path).chat_text([USER])


def test_a_file_of_its_own_wins(tmp_path: Path) -> None:
    save(tmp_path, byte_level(), chat_template="embedded")
    (tmp_path / "chat_template.jinja").write_text("file")
    assert ours(tmp_path).chat_text([USER]) == "file"
    assert theirs(tmp_path).apply_chat_template([USER], tokenize=False) == "file"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ raise_exception('say hello first') }}", "refuses these messages: say hello first$"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{% set n = namespace(_x=1) %}", "SecurityError: a namespace takes no name like '_x'"),
        ("{{ nothing.at.all }}", "UndefinedError"),
        ("{{ 'a' * messages }}", "TypeError"),
        ("{% if %}", "is no valid one.*TemplateSyntaxError"),
        ("{% generation %}", "is no valid one"),
    ],
)
def test_a_template_that_fails_is_one_sentence(source: str, reason: str) -> None:
    with pytest.raises(RiverError, match=reason) as caught:
        Tokenizer(byte_level(), source).chat_text([USER])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "messages",
    [[], "hello", [3], {"role": "user"}, [{"role": "user", "content": object()}], None],
)
def test_what_is_no_conversation(messages: Any) -> None:
    with pytest.raises(RiverError, match="conversation|JSON values"):
        Tokenizer(byte_level(), "x").chat_text(messages)


@pytest.mark.parametrize(
    "given",
    [
        {"tools": "x"},
        {"tools": [3]},
        {"documents": {}},
        {"arguments": [1]},
        {"arguments": {3: 1}},
        {"arguments": {"messages": []}},
        {"arguments": {"a": object()}},
        {"template": 3},
        {"add_generation_prompt": 1},
    ],
)
def test_options_that_are_none(given: dict[str, Any]) -> None:
    with pytest.raises(RiverError):
        ChatOptions(**given)
