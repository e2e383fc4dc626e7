"""Values between candidate and judge, as JSON lines: data only, so that nothing foreign compares.

Runs inside the jail too, from its text: imports the standard library alone.
"""

import builtins
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

LONGEST_LINE = 1 << 20  # bytes
COLLECTIONS: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}


def encode(value: Any) -> Any:
    """What json takes; TypeError for a value that is not plain data."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, bytes):
        return {"bytes": list(value)}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, list):
        return [encode(item) for item in list.__iter__(value)]
    if isinstance(value, dict):
        return {"dict": [[encode(k), encode(v)] for k, v in dict.items(value)]}
    for name, kind in COLLECTIONS.items():
        if isinstance(value, kind):
            return {name: [encode(item) for item in kind.__iter__(value)]}
    for kind in (bool, int, float, str):  # of a class of their own: as the value they hold
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Iterator | range):
        return {"iterator": [encode(item) for item in value]}
    raise TypeError(f"{type(value).__name__} is no plain value")


def decode(value: Any) -> Any:
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, items),) = value.items()
    if tag == "bytes":
        return bytes(items)
    if tag == "complex":
        return complex(*items)
    if tag == "dict":
        return {decode(k): decode(v) for k, v in items}
    found = [decode(item) for item in items]
    return iter(found) if tag == "iterator" else COLLECTIONS[tag](found)


def write(file: BinaryIO, message: dict[str, Any]) -> None:
    file.write(json.dumps(message).encode() + b"\n")
    file.flush()


def read(file: BinaryIO) -> dict[str, Any]:
    """EOFError at the end, ValueError for what is no message of ours."""
    line = file.readline(LONGEST_LINE)
    if not line:
        raise EOFError("the program ended early")
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("no message")
    return message


def exception(name: str, text: str) -> Exception:
    """The built-in exception of that name, or a RuntimeError that tells it."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(text)
        except TypeError:  # one that wants other arguments
            pass
    return RuntimeError(f"{name}: {text}")
