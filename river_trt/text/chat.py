"""What a chat template is given: a conversation as plain values, as transformers prepares it."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from river_trt.errors import RiverError

# A message's reasoning is known by several names. Templates read the first, gpt-oss's the second.
REASONING = ("reasoning_content", "thinking", "reasoning")
PLAIN: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
}
CONTINUED = "CONTINUED HERE "  # marks the end of a last message that the model goes on with


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How a conversation becomes a prompt; what transformers' `apply_chat_template` takes.

    template: name of one of the model's templates; None is its "default", or with tools its
        "tool_use".
    tools, documents: lists of JSON objects that the template may show to the model.
    add_generation_prompt: the text ends where the assistant begins to speak.
    continue_final_message: the text ends within the last message, which the model continues.
    arguments: what else the template knows, such as {"enable_thinking": False}; JSON values.
    Raises RiverError for a value of another type.
    """

    template: str | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.template is not None and not isinstance(self.template, str):
            raise RiverError(f"template must be the name of a chat template, got {self.template!r}")
        for name in ("tools", "documents"):
            values = plain(getattr(self, name))
            is_list = isinstance(values, list) and all(isinstance(item, dict) for item in values)
            if values is not None and not is_list:
                raise RiverError(f"{name} must be a list of JSON objects, got {values!r:.80}")
            object.__setattr__(self, name, values)
        for name in ("add_generation_prompt", "continue_final_message"):
            if not isinstance(getattr(self, name), bool):
                raise RiverError(f"{name} must be True or False, got {getattr(self, name)!r:.80}")
        arguments = plain(self.arguments)
        if not isinstance(arguments, dict) or not all(isinstance(name, str) for name in arguments):
            raise RiverError(
                f"template arguments must be a JSON object, got {self.arguments!r:.80}"
            )
        for name in ("messages", "tools", "documents", "add_generation_prompt"):
            if name in arguments:
                raise RiverError(f"{name} is no template argument; it has an option of its own")
        object.__setattr__(self, "arguments", arguments)


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation in place of a prompt: whatever takes a prompt takes it."""

    messages: Sequence[Mapping[str, Any]]  # {"role": ..., "content": ...}
    options: ChatOptions = field(default_factory=ChatOptions)


def plain_messages(messages: Any) -> list[dict[str, Any]]:
    """The conversation as the template sees it; RiverError for one that is none.

    Values that are None are left out: templates write "None" for them.
    """
    values = plain(messages)
    if not isinstance(values, list) or not all(isinstance(item, dict) for item in values):
        raise RiverError(
            f'a conversation is a list of messages like {{"role": "user", "content": "..."}}, '
            f"got {messages!r:.80}"
        )
    if not values:
        raise RiverError("the conversation is empty; give at least one message")
    return [_with_reasoning({k: v for k, v in item.items() if v is not None}) for item in values]


def plain(value: Any) -> Any:
    """JSON values, rebuilt: a template never sees an object with methods of its own.

    Raises RiverError for what JSON has not, or is nested too deeply.
    """
    try:
        return _plain(value)
    except RecursionError as error:
        raise RiverError("a message, tool or template argument is nested too deeply") from error


def mark_continuation(messages: list[dict[str, Any]]) -> None:
    """Write CONTINUED behind the last message's text; RiverError if it has none."""
    last = messages[-1]
    parts = last.get("content")
    if isinstance(parts, list):
        texts = [part for part in parts if isinstance(part, dict) and "text" in part]
        if texts:
            texts[-1]["text"] = f"{texts[-1]['text']}{CONTINUED}"
            return
    if not isinstance(parts, str):
        raise RiverError("continue_final_message needs a last message with a text")
    last["content"] = parts + CONTINUED


def cut_continuation(text: str) -> str:
    """The text up to the mark; RiverError for a template that left the last message out."""
    place = text.rfind(CONTINUED.strip())
    if place < 0:
        raise RiverError("the chat template does not show the last message, to be continued")
    if text.startswith(CONTINUED, place):
        return text[:place]
    return text[:place].rstrip()  # the template strips its messages


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    for kind, make in PLAIN.items():  # of a subclass, such as an enum, its plain value
        if isinstance(value, kind):
            return make(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if callable(getattr(value, "model_dump", None)):  # a message of the openai client
        return _plain(value.model_dump())
    raise RiverError(f"a chat template takes JSON values only, got {value!r:.80}")


def _with_reasoning(message: dict[str, Any]) -> dict[str, Any]:
    found = next((message[name] for name in REASONING if message.get(name) is not None), None)
    if found is None:
        return message
    return {"thinking": found, **message, "reasoning_content": found}
