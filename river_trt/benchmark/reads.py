"""What steps cannot do without: bytes that decode reads, operations of a prefill."""

import numpy as np

from river_trt.manifest import ByteCounts, Manifest, cache_slot_bytes
from river_trt.manifest_limits import DTYPE_BYTES


def weight_bytes(
    exit_layers: np.ndarray,  # [rows, steps] int, 1..L
    pinned: np.ndarray,  # [L] bool
    counts: ByteCounts,
) -> int:
    """Weight bytes that the decode steps read.

    A bank is read once a step if any row needs it: a layer with rows on both sides reads both.
    """
    layers = np.arange(1, len(pinned) + 1)
    use_river = (layers > exit_layers[..., None]) & ~pinned  # [rows, steps, L]
    river_reads = int(use_river.any(axis=0).sum())
    backbone_reads = int((~use_river).any(axis=0).sum())
    rows, steps = exit_layers.shape
    layer_bytes = backbone_reads * counts.backbone_layer + river_reads * counts.river_layer
    return int(
        layer_bytes
        + _head_bytes(exit_layers < len(pinned), counts)
        + steps * rows * counts.embedding
    )


def _head_bytes(
    left: np.ndarray,  # [rows, steps] bool
    counts: ByteCounts,
) -> int:
    """Of the LM head, that the steps read."""
    steps = len(left[0])
    if counts.river_head is None or counts.both_heads is None:
        return steps * counts.lm_head
    all_left, some_left = int(left.all(axis=0).sum()), int(left.any(axis=0).sum())
    return (
        all_left * counts.river_head
        + (some_left - all_left) * counts.both_heads
        + (steps - some_left) * counts.lm_head
    )


def prefill_operations(manifest: Manifest, prompt_tokens: int) -> float | None:
    """Additions and multiplications of a prompt on the backbone, and of its last token's logits.

    None where the manifest does not say how many weights a layer has.
    """
    shape, precision = manifest.model.shape, manifest.precision
    if precision.backbone == "int8":  # with a scale and a zero point a group
        each = 1 + 5 / manifest.river.group_size
    elif precision.backbone in DTYPE_BYTES:
        each = float(DTYPE_BYTES[precision.backbone])
    else:
        return None
    weights = shape.num_layers * manifest.bytes_per_layer.backbone_layer / each
    attended = shape.num_layers * shape.num_heads * shape.head_dim * (prompt_tokens + 1) / 2
    head = shape.vocab_size * shape.hidden_size
    return 2 * (prompt_tokens * (weights + 2 * attended) + head)


def cache_bytes(
    manifest: Manifest,
    prompt_tokens: int,
    steps: int,
) -> int:
    """K and V that one row's decode steps attend to; the first step has the prompt before it."""
    return cache_slot_bytes(manifest) * (steps * prompt_tokens + steps * (steps + 1) // 2)
