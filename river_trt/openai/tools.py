"""Calls of tools in a model's text: the formats of Qwen and Hermes, and of Llama 3.

    <tool_call>{"name": "weather", "arguments": {"city": "Basel"}}</tool_call>     Qwen, Hermes
    {"name": "weather", "parameters": {"city": "Basel"}}                           Llama 3

A model writes what it likes: what is no whole call of a tool that the request named stays text.
"""

import json
import re
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from river_trt.json_text import parse_json

TAGGED = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
OPENINGS = ("<tool_call>", "{")  # a text that begins so may become a call


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool by its name; arguments is JSON, as OpenAI's clients take it."""

    name: str
    arguments: str

    def described(self, index: int | None = None) -> dict[str, Any]:
        """As an answer has it; index: its place, in a stream."""
        place = {} if index is None else {"index": index}
        function = {"name": self.name, "arguments": self.arguments}
        return place | {"id": f"call_{uuid.uuid4().hex}", "type": "function", "function": function}


def parse_calls(text: str, names: Collection[str]) -> tuple[str, list[ToolCall]]:
    """What of the text is none of a tool's calls, and the calls in their order.

    names: of the tools that may be called.
    """
    calls = []

    def take(match: re.Match[str]) -> str:
        call = _call(match[1], names)
        if call is None:
            return match[0]
        calls.append(call)
        return ""

    rest = TAGGED.sub(take, text)
    if calls:
        return rest.strip(), calls
    call = _call(text.strip(), names)
    if call is not None:
        return "", [call]
    whole = [_call(part, names) for part in text.strip().split(";")]  # Llama 3 separates by ;
    found = [call for call in whole if call is not None]
    if found and len(found) == len(whole):
        return "", found
    return text, []


def call_schema(tools: Sequence[tuple[str, dict[str, Any] | None]]) -> dict[str, Any]:
    """Of a call of one of the tools, given as (name, schema of its parameters)."""
    calls, parts = [], {}
    for place, (name, parameters) in enumerate(tools):
        part = f"tool{place}"
        parts[part] = _moved(parameters or {"type": "object"}, f"#/$defs/{part}")
        properties = {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{part}"}}
        calls.append(
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )
    return {"anyOf": calls, "$defs": parts}


def _moved(schema: Any, root: str) -> Any:
    """A schema whose references to itself hold where it stands at `root` of another."""
    if isinstance(schema, list):
        return [_moved(part, root) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(part, root) for name, part in schema.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = root + reference[1:]
    return moved


def may_open(text: str) -> bool:
    """Whether a text that begins so can still become a call."""
    start = text.lstrip()
    return not start or any(start.startswith(o) or o.startswith(start) for o in OPENINGS)


def _call(text: str, names: Collection[str]) -> ToolCall | None:
    try:
        value = parse_json(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or value.get("name") not in names:
        return None
    given = value.get("arguments", value.get("parameters", {}))
    if isinstance(given, str):  # already JSON, as some models write it
        try:
            given = parse_json(given)
        except ValueError:
            return None
    if not isinstance(given, dict):
        return None
    return ToolCall(value["name"], json.dumps(given, ensure_ascii=False))
