"""Checks of what a recipe file says."""

import dataclasses
from typing import Any, get_type_hints

from river_trt.errors import RiverError


def check_keys(kind: type, table: dict[str, Any], where: str) -> None:
    """RiverError for a key that the dataclass has not, or one of its own that is missing."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(table.keys() - fields.keys()):
        raise RiverError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(fields)}")
    needed = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    if missing := [name for name in needed if name not in table]:
        raise RiverError(f"{where}: {missing[0]} is missing")
    hints = get_type_hints(kind)
    for name, value in table.items():
        hint = hints[name]
        if hint in (int, str, bool) and type(value) is not hint:
            raise RiverError(f"{where}: {name} must be {hint.__name__}, got {value!r}")


def check_choice(what: str, value: object, offered: Any) -> None:
    """RiverError that lists what is offered."""
    if value not in offered:
        listed = ", ".join(map(str, offered))
        raise RiverError(f"{what} {value!r} is not offered; choose one of {listed}")
