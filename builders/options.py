"""Options of a backend's build: declared once each, in the dataclass that the backend reads.

The command line, a recipe file's keys and the texts of errors come from the declaration. Nothing
here, nor in a backend's options.py, imports a library of that backend.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from builders.checks import check_choice
from river_trt.errors import RiverError

Command = Literal["build", "convert"]
METADATA = "river_trt"
# Options that several backends have in common.
LM_HEAD_BITS: dict[str, Any] = {
    "choices": (4, 8, 16, 32),  # fewer on some backends, whose builds say so
    "help": "precision of the LM head (default: the checkpoint's)",
}
RiverActivation = Literal["int8", "float32"]
RIVER_ACTIVATION: dict[str, Any] = {
    "choices": get_args(RiverActivation),
    "help": "what the river multiplies in: int8 is faster",
}


@dataclass(frozen=True, slots=True)
class Declared:
    """What is known of an option beside its type and default."""

    help: str = ""
    choices: tuple[Any, ...] = ()
    metavar: str | None = None
    flag: str | None = None  # None: --name-with-dashes
    commands: tuple[Command, ...] = ("build",)  # none: in recipe files alone
    former_name: str | None = None  # still understood for a release
    switch: bool = False  # given or not, without a value


def option(default: Any = dataclasses.MISSING, **declared: Any) -> Any:
    """A field of a backend's options; `declared` are those of Declared."""
    return dataclasses.field(default=default, metadata={METADATA: Declared(**declared)})


@dataclass(frozen=True, slots=True)
class BackendOptions:
    """Base of every backend's options, checked when made: values out of `choices` are refused."""

    def __post_init__(self) -> None:
        for name, declared in declarations(type(self)).items():
            value = getattr(self, name)
            if declared.choices and value is not None:
                check_choice(name, value, declared.choices)

    @classmethod
    def changed(cls, given: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        """The recipe's values with those that the user asked for."""
        return given | asked

    @classmethod
    def from_table(cls, table: dict[str, Any], where: str) -> "BackendOptions":
        """From a recipe, with the user's changes; raises RiverError for a wrong value."""
        del where  # of a backend whose values are tables themselves
        return cls(**table)


def declarations(kind: type[BackendOptions]) -> dict[str, Declared]:
    """What is declared of each option, by its name."""
    return {
        field.name: field.metadata.get(METADATA, Declared(commands=()))
        for field in dataclasses.fields(kind)
    }


def argument_declarations(
    kinds: Sequence[type[BackendOptions]], command: Command
) -> dict[str, Declared]:
    """The options that a command offers, of all these backends together.

    An option of several backends is one argument, with the choices of all of them.
    """
    found: dict[str, Declared] = {}
    for kind in kinds:
        for name, declared in declarations(kind).items():
            if command not in declared.commands:
                continue
            known = found.get(name, declared)
            choices = dict.fromkeys((*known.choices, *declared.choices))  # in their order
            found[name] = dataclasses.replace(known, choices=tuple(choices))
    return found


def with_present_names(kind: type[BackendOptions], table: dict[str, Any]) -> dict[str, Any]:
    """The table with the names that options have now; RiverError where both are given."""
    renamed = dict(table)
    for name, declared in declarations(kind).items():
        former = declared.former_name
        if former is not None and former in renamed:
            if name in renamed:
                raise RiverError(f"{former} is the former name of {name}; give one of them")
            renamed[name] = renamed.pop(former)
    return renamed
