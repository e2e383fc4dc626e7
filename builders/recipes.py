"""Recipes: what an engine is built with for a target. The files lie in engines/."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from builders.checks import check_choice, check_keys
from builders.onnxruntime.emit import ACCURACY_LEVELS, RiverActivation
from builders.onnxruntime.lm_head import LM_HEAD_BITS
from builders.quantisers import GROUP_SIZES, QUANTISERS
from builders.tensorrt.options import TensorRTOptions
from river_trt.errors import RiverError
from river_trt.manifest import Kernels

PACKAGE = Path(__file__).parent
WHEEL_FOLDER = "_recipes"  # where pyproject.toml puts engines/ in a wheel
CPU_BACKEND = "onnxruntime"
BACKBONE_BITS = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Build settings of one target, checked when made."""

    backend: str
    target: str
    quantiser: str
    group_size: int
    symmetric: bool
    max_seq_len: int
    river_activation: RiverActivation | None = None  # of the CPU backend
    lm_head_bits: int | None = None  # None keeps the checkpoint's precision
    backbone_bits: int | None = None  # one of BACKBONE_BITS, of the CPU backend; None: 32
    kernels: Kernels | None = None  # None: native ones for every model that they compute
    tensorrt: TensorRTOptions | None = None  # of the TensorRT backends

    def __post_init__(self) -> None:
        check_choice("quantiser", self.quantiser, QUANTISERS)
        check_choice("group size", self.group_size, GROUP_SIZES)
        if self.kernels is not None:
            check_choice("kernels", self.kernels, get_args(Kernels))
        if self.river_activation is not None:
            check_choice("river activation", self.river_activation, ACCURACY_LEVELS)
        if self.backbone_bits is not None:
            check_choice("backbone width in bits", self.backbone_bits, BACKBONE_BITS)
            if self.backend != CPU_BACKEND:
                raise RiverError(
                    f"--backbone-bits is for the {CPU_BACKEND} backend; {self.backend} has a "
                    "backbone of its own precision: leave it out"
                )
        if self.lm_head_bits is not None:
            check_choice("LM head width in bits", self.lm_head_bits, LM_HEAD_BITS)
        if self.max_seq_len < 1:
            raise RiverError(f"max_seq_len must be at least 1, got {self.max_seq_len}")


def load_recipe(target: str, changes: dict[str, Any]) -> Recipe:
    """The recipe of a target with the user's changes.

    target: a name (the files of engines/), or the path of a recipe file. changes: values by the
    name of a Recipe field, or by "tensorrt.NAME" for the table [tensorrt]. Raises RiverError that
    lists the known targets, or names the key that is unknown.
    """
    where = f"recipe {target}"
    values = _read(target)
    nested = {
        name.removeprefix("tensorrt."): value
        for name, value in changes.items()
        if name.startswith("tensorrt.")
    }
    table = values.pop("tensorrt", None)
    values |= {name: value for name, value in changes.items() if not name.startswith("tensorrt.")}
    check_keys(Recipe, values, where)
    if table is not None:
        values["tensorrt"] = TensorRTOptions.from_table(table | nested, f"{where}, [tensorrt]")
    elif nested:
        raise RiverError(
            f"{where} is not for TensorRT, so {next(iter(nested))} does not apply to it; "
            f"choose a --target with a table [tensorrt]: {', '.join(_gpu_targets())}"
        )
    return Recipe(**values)


def _gpu_targets() -> list[str]:
    return [name for name, file in known_recipes().items() if "[tensorrt]" in file.read_text()]


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
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RiverError(f"recipe {target} is not TOML: {error}") from error
