"""Arguments of `build` and `convert` that the builders' backends declare, and what was given."""

import argparse
from collections.abc import Iterable
from typing import Any, Literal

# Of the commands themselves; every other argument of theirs is an option of the build.
NOT_OPTIONS = ("execute", "parser", "json", "debug", "format")


def add_backend_arguments(
    parser: argparse.ArgumentParser, command: Literal["build", "convert"], backends: Iterable[str]
) -> None:
    """One argument for each option that one of the backends declares for the command."""
    from builders.options import argument_declarations
    from builders.registry import options_of

    group = parser.add_argument_group("of some backends")
    kinds = list(dict.fromkeys(options_of(backend) for backend in backends))
    for name, declared in argument_declarations(kinds, command).items():
        given: dict[str, Any] = {"dest": name}
        if declared.switch:
            given |= {"action": "store_const", "const": True}
        elif declared.choices:
            given |= {"choices": declared.choices, "type": type(declared.choices[0])}
        elif declared.metavar == "N":
            given |= {"metavar": "N", "type": int}
        flag = declared.flag or f"--{name.replace('_', '-')}"
        group.add_argument(flag, help=declared.help, **given)
        if declared.former_name is not None:
            former = f"--{declared.former_name.replace('_', '-')}"
            group.add_argument(former, help=argparse.SUPPRESS, **given)


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, by name; one that was not keeps the builders' default."""
    return {
        name: value
        for name, value in vars(args).items()
        if value is not None and name not in NOT_OPTIONS
    }
