"""From the tensors of one request to what the scheduler takes. Knows no Triton."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from river_trt.config import MOST_VALUES, GenerationConfig
from river_trt.errors import RiverError
from river_trt.json_text import parse_json
from river_trt.text import Chat, ChatOptions
from river_trt.triton.fields import Field, Layout
from river_trt.triton.parameters import make_config, parse_parameters

FLAGS = {
    "stream": False,
    "return_finish_reason": False,
    "return_num_input_tokens": False,
    "return_num_output_tokens": False,
    "return_exit_statistics": False,
}
KINDS = {"STRING": "O", "BOOL": "b"}  # of numpy's dtypes; numbers of any kind do for a number
# Beside `messages`: the client's names, and those of ChatOptions.
CHAT = {
    "chat_template": "template",
    "chat_template_kwargs": "arguments",
    "tools": "tools",
}


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, checked."""

    prompt: str | Chat
    config: GenerationConfig
    echo: bool  # the text begins with the prompt
    stream: bool
    return_finish_reason: bool
    return_num_input_tokens: bool
    return_num_output_tokens: bool
    return_exit_statistics: bool


def read_ask(
    layout: Layout,
    tensors: Mapping[str, np.ndarray],  # by input name, [n] or [1, n]
    parameters: str,  # JSON: what generate was given beyond the inputs
) -> Ask:
    """Raises RiverError with the name of the field that is wrong."""
    given: dict[str, Any] = {}
    names: dict[str, str] = {}  # ours to the request's
    for field in layout.inputs:
        if field.name not in tensors:
            continue
        value = _value(field, tensors[field.name])
        if field.sets is None:
            _check_neutral(field, value)
        else:
            given[field.sets], names[field.sets] = value, field.name
    if "text_input" not in given:
        raise RiverError("text_input is missing; give the prompt there")
    prompt = given.pop("text_input")
    flags = {name: given.pop(name, default) for name, default in FLAGS.items()}
    exclude = given.pop("exclude_input_in_output", None)
    in_json = parse_parameters(given.pop("sampling_parameters", ""))
    beyond = parse_parameters(parameters, "parameters")
    for name, value in (*in_json.items(), *beyond.items()):
        if name in given:
            raise RiverError(f"{names.get(name, name):.60} is given twice")
        given[name] = value
    chat = _chat(given, prompt)
    if exclude is False and chat is not None:
        raise RiverError("exclude_input_in_output must be true with messages")
    if exclude is False and flags["stream"]:
        raise RiverError("exclude_input_in_output must be true in a stream")
    echo = layout.echo if exclude is None else not exclude
    try:
        config = make_config(given)
    except RiverError as error:  # under the name that the client knows
        ours = str(error).split(maxsplit=1)[0].rstrip(":")
        raise RiverError(str(error).replace(ours, names.get(ours, ours), 1)) from error
    if chat is not None:
        return Ask(chat, config, False, **flags)
    return Ask(prompt, config, echo and not flags["stream"], **flags)


def _chat(given: dict[str, Any], text_input: str) -> Chat | None:
    """A conversation in place of text_input, under the names of vLLM's chats; taken out of given.

    Triton's own parameters know no lists: there they are JSON texts.
    """
    values = {name: given.pop(name, None) for name in ("messages", *CHAT)}
    for name in ("messages", "chat_template_kwargs", "tools"):
        if isinstance(values[name], str):
            try:
                values[name] = parse_json(values[name])
            except ValueError as error:
                raise RiverError(f"{name} is no JSON: {error}") from error
    messages = values.pop("messages")
    if messages is None:
        for name, value in values.items():
            if value is not None:
                raise RiverError(f"{name} is for a chat, whose messages are missing")
        return None
    if text_input:
        raise RiverError("text_input must be empty where messages are given")
    options = {CHAT[name]: value for name, value in values.items() if value is not None}
    return Chat(messages, ChatOptions(**options))


def _value(field: Field, tensor: np.ndarray) -> Any:
    """The Python value of a tensor [1], [n], [1, 1] or [1, n]."""
    if tensor.ndim == 2 and len(tensor) != 1:
        raise RiverError(f"{field.name} holds {len(tensor)} rows; send one prompt a request")
    if tensor.dtype.kind not in KINDS.get(field.kind, "iuf"):
        raise RiverError(f"{field.name} must be a tensor of {field.kind}")
    if tensor.size > MOST_VALUES:  # before each is converted
        raise RiverError(f"{field.name} may hold {MOST_VALUES} values, got {tensor.size}")
    values = [_item(field, item) for item in tensor.reshape(-1)]
    if field.many:
        # Clients of the trtllm layout send one empty string for no words.
        return [value for value in values if value != ""]
    if len(values) != 1:
        raise RiverError(f"{field.name} must hold one value, got {len(values)}")
    return values[0]


def _item(field: Field, item: Any) -> Any:
    if field.kind == "STRING":
        try:
            return item.decode() if isinstance(item, bytes) else str(item)
        except UnicodeDecodeError as error:
            raise RiverError(f"{field.name} is not UTF-8 text") from error
    if field.kind == "FP32":
        return float(str(item))  # 0.9, as the client wrote it, not its float32 neighbour
    return item.item()


def _check_neutral(field: Field, value: Any) -> None:
    values = value if field.many else [value]
    for item in values:
        if item not in field.neutral:
            raise RiverError(f"{field.name} is not supported, got {item!r:.60}")
