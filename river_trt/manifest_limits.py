"""Values that a manifest's types allow and no engine has; they would fail later, and elsewhere."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from river_trt.errors import EngineError

if TYPE_CHECKING:
    from river_trt.manifest import Manifest

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}  # of a cache's values
SCALE_BYTES = 4  # of a token's key or value of one head, where they are int8
REBUILD = "rebuild the engine with `river-trt build`"
# Several times what the largest models have.
MOST = {
    "num_layers": 1 << 12,
    "hidden_size": 1 << 20,
    "num_heads": 1 << 16,
    "num_kv_heads": 1 << 16,
    "head_dim": 1 << 16,
    "vocab_size": 1 << 24,
    "max_seq_len": 1 << 26,
}
MOST_BYTES = 1 << 62  # of any file, or parameters of any model
LARGEST_FLOAT = float(np.finfo(np.float32).max)


def cache_slot_bytes(manifest: "Manifest") -> int:
    """K and V of one token, in all layers."""
    shape, dtype = manifest.model.shape, manifest.precision.kv_cache
    head = shape.head_dim * DTYPE_BYTES[dtype] + (SCALE_BYTES if dtype == "int8" else 0)
    return 2 * shape.num_layers * shape.num_kv_heads * head


def check_limits(manifest: "Manifest") -> None:
    """Raises EngineError, naming the value and the rule."""
    model = manifest.model
    for dimension, size in dataclasses.asdict(model.shape).items():
        _check(f"model.shape.{dimension}", size, 1, MOST[dimension])
    if model.shape.num_heads % model.shape.num_kv_heads:
        raise EngineError(
            f"manifest.json: model.shape.num_heads {model.shape.num_heads} must be a multiple of "
            f"num_kv_heads {model.shape.num_kv_heads}; {REBUILD}"
        )
    for i, token in enumerate(model.eos_token_ids):
        _check(f"model.eos_token_ids[{i}]", token, 0, model.shape.vocab_size - 1)
    if model.bos_token_id is not None:
        _check("model.bos_token_id", model.bos_token_id, 0, model.shape.vocab_size - 1)
    _check("model.num_parameters", model.num_parameters, 0, MOST_BYTES)
    for part, size in dataclasses.asdict(manifest.bytes_per_layer).items():
        if size is not None:
            _check(f"bytes_per_layer.{part}", size, 0, MOST_BYTES)
    counts = manifest.bytes_per_layer
    parts = (manifest.precision.river_head_bits, counts.river_head, counts.both_heads)
    if 0 < parts.count(None) < len(parts):
        raise EngineError(
            "manifest.json: precision.river_head_bits, bytes_per_layer.river_head and "
            f"bytes_per_layer.both_heads go together; {REBUILD}"
        )
    for name, info in manifest.files.items():
        _check(f"files.{name}.size", info.size, 0, MOST_BYTES)
    for key, policy in manifest.stored_policies().items():
        for i, tau in enumerate(policy.tau):
            if LARGEST_FLOAT < abs(tau) < float("inf"):
                raise EngineError(
                    f"manifest.json: {key}.tau[{i}] must fit float32, got {tau}; {REBUILD}"
                )
    if manifest.precision.kv_cache not in DTYPE_BYTES:
        raise EngineError(
            f"manifest.json: precision.kv_cache must be one of {', '.join(DTYPE_BYTES)}, "
            f"got {manifest.precision.kv_cache!r}; {REBUILD}"
        )


def _check(name: str, value: int, least: int, most: int) -> None:
    if value < least:
        raise EngineError(
            f"manifest.json: {name} must be at least {least}, got {value:d}; {REBUILD}"
        )
    if value > most:
        raise EngineError(f"manifest.json: {name} must be at most {most}; {REBUILD}")
