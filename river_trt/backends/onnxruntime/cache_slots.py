"""What a slot of the KV cache holds: a key or a value of one head (plugins/cpu/kernels.h).

int8: codes, and behind them the float32 that they are multiples of, in its four bytes.
"""

import numpy as np

from river_trt.manifest_limits import SCALE_BYTES


def slot_width(kv_cache: str, head_dim: int) -> int:
    """Values of the cache's type that a slot has."""
    return head_dim + SCALE_BYTES if kv_cache == "int8" else head_dim


def widen_slots(
    slots: np.ndarray,  # [..., slot_width]
) -> np.ndarray:
    """float32 [..., head_dim]."""
    if slots.dtype != np.int8:
        return slots.astype(np.float32, copy=False)
    scales = np.ascontiguousarray(slots[..., -SCALE_BYTES:]).view(np.float32)
    return slots[..., :-SCALE_BYTES] * scales
