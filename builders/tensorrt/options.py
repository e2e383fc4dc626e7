"""How an engine for TensorRT is built: a recipe's table [tensorrt]."""

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from builders.checks import check_choice, check_keys
from builders.options import LM_HEAD_BITS, BackendOptions, option
from river_trt.errors import RiverError
from river_trt.manifest import TensorRTMode

Dtype = Literal["float16", "bfloat16", "float32"]
Attention = Literal["plugin", "native"]
HardwareCompatibility = Literal["none", "ampere_plus", "same_compute_capability"]


@dataclass(frozen=True, slots=True)
class Profile:
    """Step shapes that one execution context takes: least, best optimised and largest of each."""

    name: str
    batch: tuple[int, int, int]
    seq: tuple[int, int, int]
    logits: tuple[int, int, int] = (1, 1, 1)  # positions whose logits are wanted

    def __post_init__(self) -> None:
        for field in ("batch", "seq", "logits"):
            sizes = getattr(self, field)
            whole = len(sizes) == 3 and all(type(size) is int for size in sizes)
            if not whole or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
                raise RiverError(
                    f"profile {self.name}: {field} must be three numbers, least <= best <= "
                    f"largest and at least 1, got {list(sizes)}"
                )
        if self.logits[2] > self.seq[2]:
            raise RiverError(
                f"profile {self.name}: {self.logits[2]} logits of at most {self.seq[2]} positions"
            )

    @classmethod
    def changed(cls, given: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        """A type that the user asks for is the cache's too, as it must be."""
        cache = {"kv_cache": asked["dtype"]} if "dtype" in asked else {}
        return given | cache | asked

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> "Profile":
        """From TOML or JSON, where tuples are lists."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in table.items()
        }
        return cls(**values)


@dataclass(frozen=True, slots=True)
class TensorRTOptions(BackendOptions):
    """How TensorRT builds for a target. Those without a help text are a recipe's alone."""

    compute_capability: str  # of the GPU, as "9.0"
    profiles: tuple[Profile, ...]
    dtype: Dtype = option(
        "float16",
        choices=get_args(Dtype),
        help="of activations, backbone and KV cache (default: the target's)",
    )
    kv_cache: Dtype = "float16"
    network: TensorRTMode = option(
        "plugin",
        choices=get_args(TensorRTMode),
        former_name="mode",
        help="TensorRT: plugin is the fast one, portable needs no plugin (default: the target's)",
    )
    attention: Attention = "plugin"  # of the plugin network: RiverAttention, or TensorRT's own
    optimization_level: int = 3  # 0..5: how many tactics the builder tries
    weight_streaming: bool = False  # the backbone may stay in host memory; no CUDA graphs then
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False  # runs on later versions of the same major too
    timing_cache: bool = True  # what tactics took, kept in the user's cache for the next build
    lm_head_bits: int | None = option(None, **LM_HEAD_BITS)

    def __post_init__(self) -> None:
        BackendOptions.__post_init__(self)
        if not re.fullmatch(r"\d{1,2}\.\d", str(self.compute_capability)):
            raise RiverError(
                f"compute_capability {self.compute_capability!r} must read like 9.0, as a string"
            )
        for name in ("kv_cache", "attention", "hardware_compatibility"):
            kind = get_type_hints(TensorRTOptions)[name]
            check_choice(name, getattr(self, name), get_args(kind))
        for name in ("weight_streaming", "version_compatible", "timing_cache"):
            check_choice(name, getattr(self, name), (True, False))
        if self.kv_cache != self.dtype:
            raise RiverError(
                f"kv_cache {self.kv_cache!r} must be the dtype {self.dtype!r}: attention reads "
                "the cache in the type of its activations"
            )
        if self.network == "plugin" and self.dtype == "float32":
            raise RiverError(
                "dtype 'float32' is for the portable network; the plugins compute in float16 or "
                "bfloat16"
            )
        check_choice("optimization_level", self.optimization_level, tuple(range(6)))
        if not self.profiles:
            raise RiverError("a TensorRT recipe needs at least one profile")

    @property
    def fixed_cache(self) -> bool:
        """The cache's length is the engine's: its updates are TensorRT's own layers."""
        return self.network == "portable" or self.attention == "native"

    @classmethod
    def changed(cls, given: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        """A type that the user asks for is the cache's too, as it must be."""
        cache = {"kv_cache": asked["dtype"]} if "dtype" in asked else {}
        return given | cache | asked

    @classmethod
    def from_table(cls, table: dict[str, Any], where: str) -> "TensorRTOptions":
        """From a recipe file's table, whose profiles are tables too."""
        profiles = table["profiles"]
        if not isinstance(profiles, list) or not all(isinstance(item, dict) for item in profiles):
            raise RiverError(f"{where}: profiles must be a list of tables")
        for item in profiles:
            check_keys(Profile, item, f"{where}, profiles")
        made = tuple(Profile.from_table(item) for item in profiles)
        return cls(**(table | {"profiles": made}))
