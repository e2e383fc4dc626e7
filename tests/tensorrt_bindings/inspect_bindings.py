"""Says, as JSON, what of uses.py the bindings on the path lack or declare otherwise.

usage: inspect_bindings.py, with tensorrt_bindings and tests/tensorrt_bindings on PYTHONPATH and the
stub libraries on LD_LIBRARY_PATH: a process of its own, since each version is another extension.
"""

import inspect
import json
import re

import tensorrt_bindings as trt
from uses import ENUMS, OVERRIDDEN, USES


def signatures(function) -> list[list[str]]:
    """The parameters of every overload, as pybind11 writes them into the docstring."""
    lines = re.findall(r"^(?:\d+\. )?\w+\((.*)\) ->", function.__doc__ or "", re.MULTILINE)
    found = []
    for line in lines:
        if "*args" in line:
            continue
        parts = re.split(r", (?=\w+:)", line)
        found.append([part.split(":")[0].strip() for part in parts if part][1:])  # less self
    return found


def takes(parameters: list[str], positional: int, keywords: tuple[str, ...]) -> bool:
    return positional <= len(parameters) and set(keywords) <= set(parameters[positional:])


def problem(owner, name: str, use) -> str | None:
    found = inspect.getattr_static(owner, name, None)
    if found is None and not hasattr(owner, name):
        return "absent"
    if use == "get":
        return None
    if use == "set":
        settable = isinstance(found, property) and found.fset is not None
        return None if settable else "cannot be set"
    known = signatures(getattr(owner, name))
    if known and any(takes(parameters, *use) for parameters in known):
        return None
    return f"takes {known}, not {use}"


def main() -> None:
    problems: dict[str, str] = {}
    for name, members in USES.items():
        owner = getattr(trt, name, None)
        for member, use in members.items():
            reason = "no class" if owner is None else problem(owner, member, use)
            if reason:
                problems[f"{name}.{member}"] = reason
    for name, members in (ENUMS | OVERRIDDEN).items():
        for member in members:
            if not hasattr(getattr(trt, name, None), member):
                problems[f"{name}.{member}"] = "absent"
    methods = sorted(
        name
        for owner in vars(trt).values()
        if inspect.isclass(owner)
        for name, value in vars(owner).items()
        if not name.startswith("_") and callable(value)
    )
    print(json.dumps({"version": trt.__version__, "problems": problems, "methods": methods}))


if __name__ == "__main__":
    main()
