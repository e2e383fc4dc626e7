"""How a River checkpoint is written."""

from dataclasses import dataclass
from typing import Literal, get_args

from builders.options import BackendOptions, option

BackboneDtype = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class RiverCheckpointOptions(BackendOptions):
    dtype: BackboneDtype | None = option(
        None,
        choices=get_args(BackboneDtype),
        commands=("convert",),
        help="of the backbone (default: the checkpoint's own)",
    )
