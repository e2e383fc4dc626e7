"""What an engine of TensorRT takes and gives: its tensors, its profiles, the one of a step."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from river_trt.errors import EngineError, RiverError
from river_trt.manifest import REBUILD
from river_trt.spec import POLICY_INPUTS, STEP_INPUTS, cache_names

# TensorRT's type names. bfloat16 is no numpy type: its bits travel as uint16.
DTYPES: dict[str, np.dtype] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(np.uint16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
}


@dataclass(frozen=True, slots=True)
class StepShape:
    """Sizes of one step."""

    batch: int
    seq: int
    num_logits: int

    def __str__(self) -> str:
        return f"{self.batch} rows of {self.seq} tokens with {self.num_logits} logits each"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of the engine; -1 is a size that a step chooses."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    is_input: bool
    is_bfloat16: bool = False

    def resolve(self, step: StepShape, rows: int = 0, slots: int = 0) -> tuple[int, ...]:
        """The shape in a step; a cache has `rows` rows of `slots` slots instead."""
        sizes: Iterable[int] = {
            "input_ids": (step.batch, step.seq),
            "exit_layer": (step.batch, step.seq),
            "past_lengths": (step.batch,),
            "logit_indices": (step.num_logits,),
            "logits": (step.batch, step.num_logits),
        }.get(self.name, (rows or step.batch, slots))
        chosen = iter(sizes)
        return tuple(next(chosen) if size == -1 else size for size in self.shape)

    def num_bytes(self, step: StepShape) -> int:
        """Of this tensor in a step of that shape."""
        return int(np.prod(self.resolve(step), dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class ProfileLimits:
    """An optimisation profile: the least and the largest step, and the longest cache."""

    index: int
    least: StepShape
    most: StepShape
    most_slots: int

    def takes(self, step: StepShape) -> bool:
        """Whether a step of that shape may run by this profile."""
        pairs = (
            (self.least.batch, step.batch, self.most.batch),
            (self.least.seq, step.seq, self.most.seq),
            (self.least.num_logits, step.num_logits, self.most.num_logits),
        )
        return all(low <= size <= high for low, size, high in pairs)


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """The tensors and profiles of an engine, checked against the contract of river_trt.spec."""

    tensors: dict[str, TensorSpec]
    profiles: tuple[ProfileLimits, ...]
    gated: bool  # False: one bank alone, without a policy

    @classmethod
    def read(cls, engine: Any, num_layers: int) -> "EngineSpec":
        """From an ICudaEngine. Raises EngineError for another engine than this project's."""
        tensors = {}
        for i in range(engine.num_io_tensors):
            name = engine.get_tensor_name(i)
            kind = engine.get_tensor_dtype(name).name
            if kind not in DTYPES:
                raise EngineError(f"the engine's {name} has type {kind}, which is not supported")
            if engine.is_shape_inference_io(name):
                raise EngineError(f"the engine wants {name} in host memory; {REBUILD}")
            is_input = engine.get_tensor_mode(name).name == "INPUT"
            shape = tuple(int(size) for size in engine.get_tensor_shape(name))
            tensors[name] = TensorSpec(name, DTYPES[kind], shape, is_input, kind == "BF16")
        gated = "tau" in tensors
        _check_names(tensors, num_layers, gated)
        profiles = tuple(
            _read_profile(engine, tensors, index)
            for index in range(engine.num_optimization_profiles)
        )
        return cls(tensors, profiles, gated)

    def choose_profile(self, step: StepShape) -> ProfileLimits:
        """The first profile that takes the step. RiverError lists them where none does."""
        for profile in self.profiles:
            if profile.takes(step):
                return profile
        offered = "; ".join(
            f"up to {p.most}" + ("" if p.least.seq == 1 else f", at least {p.least.seq} tokens")
            for p in self.profiles
        )
        raise RiverError(
            f"a step of {step} fits no profile of this engine ({offered}); use a smaller batch or "
            "prefill chunk, or build with larger profiles in a recipe of your own"
        )

    def check_decode_batch(self, batch: int) -> None:
        """RiverError where so many rows cannot be decoded together."""
        decoding = (p.most.batch for p in self.profiles if p.least.seq == p.least.num_logits == 1)
        most = max(decoding, default=0)
        if batch > most:
            raise RiverError(
                f"max_batch_size {batch} exceeds this engine's profile of {most} rows; load with "
                f"max_batch_size {most} or less, or build with a larger profile"
            )

    def cache_slots(self, wanted: int) -> int:
        """Slots of a cache row: as many as wanted, or what the engine was built with.

        Raises RiverError where more are wanted than it has.
        """
        slots = self.tensors["k_cache.0"].shape[2]
        most = slots if slots != -1 else min(profile.most_slots for profile in self.profiles)
        if wanted > most:
            raise RiverError(f"max_seq_len {wanted} exceeds the {most} slots of this engine")
        return wanted if slots == -1 else slots


def _check_names(tensors: dict[str, TensorSpec], num_layers: int, gated: bool) -> None:
    policy = POLICY_INPUTS if gated else ()
    inputs = {*STEP_INPUTS, *policy, *cache_names(num_layers)}
    outputs = {"logits", "exit_layer", *cache_names(num_layers, "_out")}
    for kind, expected in (("input", inputs), ("output", outputs)):
        found = {t.name for t in tensors.values() if t.is_input == (kind == "input")}
        wrong = sorted(found ^ expected)
        if wrong:
            state = "missing" if wrong[0] in expected else "unknown"
            raise EngineError(
                f"the engine is not a river engine: {kind} {wrong[0]} is {state}; {REBUILD}"
            )


def _read_profile(engine: Any, tensors: dict[str, TensorSpec], index: int) -> ProfileLimits:
    def limits(name: str) -> list[tuple[int, ...]]:
        if -1 not in tensors[name].shape:
            return [tensors[name].shape] * 3
        return [tuple(shape) for shape in engine.get_tensor_profile_shape(name, index)]

    ids, logits, cache = (limits(n) for n in ("input_ids", "logit_indices", "k_cache.0"))
    least, most = (StepShape(*ids[level], *logits[level]) for level in (0, 2))
    return ProfileLimits(index, least, most, cache[2][2])
