"""Recipes: what an engine is built with for a target. The files lie in engines/."""

import dataclasses
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any, get_args

from builders.onnxruntime.emit import ACCURACY_LEVELS, RiverActivation
from builders.onnxruntime.lm_head import LM_HEAD_BITS
from builders.quantisers import GROUP_SIZES, QUANTISERS
from river_trt.errors import RiverError
from river_trt.manifest import Kernels

RECIPE_PACKAGE = "engines"
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
    river_activation: RiverActivation
    max_seq_len: int
    lm_head_bits: int | None = None  # None keeps the checkpoint's precision
    backbone_bits: int | None = None  # one of BACKBONE_BITS, of the CPU backend; None: 32
    kernels: Kernels | None = None  # None: native ones for every model that they compute

    def __post_init__(self) -> None:
        _check("quantiser", self.quantiser, QUANTISERS)
        _check("group size", self.group_size, GROUP_SIZES)
        if self.kernels is not None:
            _check("kernels", self.kernels, get_args(Kernels))
        _check("river activation", self.river_activation, ACCURACY_LEVELS)
        if self.backbone_bits is not None:
            _check("backbone width in bits", self.backbone_bits, BACKBONE_BITS)
            if self.backend != CPU_BACKEND:
                raise RiverError(
                    f"--backbone-bits is for the {CPU_BACKEND} backend; {self.backend} has a "
                    "backbone of its own precision: leave it out"
                )
        if self.lm_head_bits is not None:
            _check("LM head width in bits", self.lm_head_bits, LM_HEAD_BITS)
        if self.max_seq_len < 1:
            raise RiverError(f"max_seq_len must be at least 1, got {self.max_seq_len}")


def load_recipe(target: str, changes: dict[str, Any]) -> Recipe:
    """The recipe of a target with the user's changes; RiverError lists the known targets."""
    known = {
        path.name.removesuffix(".toml"): path
        for path in resources.files(RECIPE_PACKAGE).iterdir()
        if path.name.endswith(".toml")
    }
    _check("target", target, sorted(known))
    values = tomllib.loads(known[target].read_text(encoding="utf-8"))
    fields = {field.name for field in dataclasses.fields(Recipe)}
    if unknown := sorted(values.keys() - fields):
        raise RiverError(f"recipe {target}: unknown key {unknown[0]!r}")
    return Recipe(**(values | changes))


def _check(what: str, value: object, offered: Any) -> None:
    if value not in offered:
        listed = ", ".join(map(str, offered))
        raise RiverError(f"{what} {value!r} is not offered; choose one of {listed}")
