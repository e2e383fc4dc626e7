"""What a subcommand is, and the argument parser that all of them share."""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from river_trt.errors import RiverError


@dataclass(frozen=True, slots=True)
class Command:
    """A subcommand; `execute` returns the exit code and raises RiverError for bad input."""

    name: str
    summary: str  # one line, for the list of commands
    examples: str  # printed below the options
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """Bad usage raises RiverError, so that it is reported like any other bad input."""

    def error(self, message: str) -> NoReturn:
        raise RiverError(f"{message}; see `{self.prog} --help`")


def make_parser(
    prog: str, version: str, about: str, commands: Sequence[Command], arguments: Sequence[str]
) -> Parser:
    """Only the command that `arguments` name gets its options: those of a build import builders."""
    named = next((argument for argument in arguments if not argument.startswith("-")), None)
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog=prog, description=about, formatter_class=raw, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{prog} {version}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in commands:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=command.summary,
            epilog=f"examples:\n{command.examples.rstrip()}",
            formatter_class=raw,
            allow_abbrev=False,
        )
        if command.name == named:
            command.add_arguments(subparser)
        subparser.add_argument(
            "--debug", action="store_true", help="print the traceback of a fault of river-trt"
        )
        subparser.set_defaults(execute=command.execute, parser=subparser)
    return parser


def join_negative_tau(arguments: Sequence[str]) -> list[str]:
    """`--tau -inf` as `--tau=-inf`: argparse would take -inf for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--tau" and re.match(r"-(inf|nan|\d|\.)", argument, re.I):
            joined[-1] = f"--tau={argument}"
        else:
            joined.append(argument)
    return joined
