"""Recipes: what an engine is built with for a target. The files lie in engines/."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from builders.checks import check_choice, check_keys
from builders.options import BackendOptions, with_present_names
from builders.quantisers import GROUP_SIZES, QUANTISERS
from builders.registry import option_classes, options_of
from river_trt.errors import RiverError

PACKAGE = Path(__file__).parent
WHEEL_FOLDER = "_recipes"  # where pyproject.toml puts engines/ in a wheel
TABLE = "tensorrt"  # a table of recipe files; other options of a backend stand outside it
Options = TypeVar("Options", bound=BackendOptions)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Build settings of one target, checked when made."""

    backend: str
    target: str
    quantiser: str
    group_size: int
    symmetric: bool
    max_seq_len: int
    options: BackendOptions  # of the backend

    def __post_init__(self) -> None:
        check_choice("quantiser", self.quantiser, QUANTISERS)
        check_choice("group size", self.group_size, GROUP_SIZES)
        if self.max_seq_len < 1:
            raise RiverError(f"max_seq_len must be at least 1, got {self.max_seq_len}")

    def options_as(self, kind: type[Options]) -> Options:
        """The options, of the kind that a backend declared."""
        assert isinstance(self.options, kind), f"{self.backend} has {type(self.options).__name__}"
        return self.options


COMMON = tuple(field.name for field in dataclasses.fields(Recipe) if field.name != "options")


def load_recipe(target: str, changes: dict[str, Any]) -> Recipe:
    """The recipe of a target with the user's changes.

    target: a name (the files of engines/), or the path of a recipe file. changes: values by the
    name of a Recipe field or of one of the backend's options. Raises RiverError that lists the
    known targets, or names the key that is unknown or belongs to another backend.
    """
    where = f"recipe {target}"
    file = _read(target)
    common = {name: value for name, value in file.items() if name in COMMON}
    common |= {name: value for name, value in changes.items() if name in COMMON}
    _check_common(common, where)
    backend = common["backend"]
    kind = options_of(backend)
    given = _file_options(file, where)
    if options_of(file["backend"]) is not kind:
        # What the file says to its own backend alone is nothing to the one that was asked for.
        given = {name: value for name, value in given.items() if name in _names(kind)}
    asked = {name: value for name, value in changes.items() if name not in COMMON}
    asked = with_present_names(kind, asked)
    for name in asked.keys() - _names(kind):
        raise RiverError(_of_another(name, target, backend))
    given = kind.changed(given, asked)
    missing = _needed(kind) - given.keys()
    if missing and options_of(file["backend"]) is not kind:
        raise RiverError(
            f"target {target!r} is not for {backend}: its recipe gives no {min(missing)}; choose "
            f"--target {', '.join(_targets(kind))}"
        )
    check_keys(kind, given, where)
    return Recipe(**common, options=kind.from_table(given, where))


def known_recipes() -> dict[str, Path]:
    """Target name to its file: in engines/ of a checkout, else in the copy inside the wheel.

    Raises RiverError where neither is there.
    """
    for folder in (PACKAGE.parent / "engines", PACKAGE / WHEEL_FOLDER):
        if files := sorted(folder.glob("*.toml")):
            return {file.stem: file for file in files}
    raise RiverError(
        f"recipes are in neither {PACKAGE.parent / 'engines'} nor {PACKAGE / WHEEL_FOLDER}; "
        "install river-trt again"
    )


def _check_common(values: dict[str, Any], where: str) -> None:
    check_keys(Recipe, values | {"options": None}, where)


def _file_options(file: dict[str, Any], where: str) -> dict[str, Any]:
    """The options of a file's own backend; RiverError for a key that is none of them."""
    kind = options_of(file["backend"])
    table = file.get(TABLE, {})
    if not isinstance(table, dict):
        raise RiverError(f"{where}: {TABLE} must be a table")
    outside = {name: v for name, v in file.items() if name not in (*COMMON, TABLE)}
    options = with_present_names(kind, outside | table)
    if unknown := sorted(options.keys() - _names(kind)):
        known = ", ".join(sorted(_names(kind)) if unknown[0] in table else (*COMMON, *_names(kind)))
        raise RiverError(f"{where}: unknown key {unknown[0]!r}; known are {known}")
    return options


def _of_another(name: str, target: str, backend: str) -> str:
    """Why an option cannot be given: whose it is, and which targets are theirs."""
    for kind, backends in option_classes().items():
        present = next(iter(with_present_names(kind, {name: None})))
        if present in _names(kind):
            targets = _targets(kind)
            choose = f", or choose --target {', '.join(targets)}" if targets else ""
            return (
                f"{name} is an option of {' and '.join(backends)}, and target {target!r} is built "
                f"for {backend}: leave it out{choose}"
            )
    raise RiverError(f"{name} is an option of no backend")


def _names(kind: type[BackendOptions]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _needed(kind: type[BackendOptions]) -> set[str]:
    return {
        field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING
    }


def _targets(kind: type[BackendOptions]) -> list[str]:
    """Of the recipes that come with us, those for a backend with such options."""
    return [name for name in known_recipes() if options_of(_read(name)["backend"]) is kind]


def _read(target: str) -> dict[str, Any]:
    known = known_recipes()
    if target in known:
        text = known[target].read_text(encoding="utf-8")
    elif target.endswith(".toml"):
        try:
            text = Path(target).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RiverError(f"cannot read the recipe {target}: {error}") from error
    else:
        raise RiverError(
            f"target {target!r} is not offered; choose one of {', '.join(known)}, "
            "or give the path of a .toml file"
        )
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RiverError(f"recipe {target} is not TOML: {error}") from error
    if "backend" not in values:
        raise RiverError(f"recipe {target}: backend is missing")
    return values
