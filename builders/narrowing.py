"""The one way from a wide floating point type to a narrow one: nothing becomes infinite unseen."""

import math

import ml_dtypes
import numpy as np
import torch

from river_trt.errors import CheckpointError

HINT = {
    torch.float16: "use bfloat16, which has float32's range (--dtype bfloat16), or on a CPU "
    "--backbone-bits 32"
}


def narrow(tensor: torch.Tensor, dtype: torch.dtype, name: str) -> torch.Tensor:
    """The tensor in that type, rounded.

    Raises CheckpointError, naming the tensor and its largest value, where the type has no number
    for a value that was one.
    """
    narrowed = tensor.to(dtype)
    if dtype == tensor.dtype or torch.isfinite(narrowed).all():
        return narrowed
    largest = float(tensor.float().abs().max())
    if not math.isfinite(largest):
        raise CheckpointError(f"{name} holds {largest}, which is no number")
    most = torch.finfo(dtype).max
    short = str(dtype).removeprefix("torch.")
    hint = HINT.get(dtype, "its weights are broken")
    raise CheckpointError(f"{name} holds {largest:g}, but {short} ends at {most:g}: {hint}")


def to_array(tensor: torch.Tensor, dtype: np.dtype, name: str) -> np.ndarray:
    """A float tensor as an array of float32, float16 or bfloat16; errors as `narrow`."""
    if dtype == ml_dtypes.bfloat16:
        # torch rounds; numpy only relabels the bits.
        bits = narrow(tensor, torch.bfloat16, name).view(torch.uint16)
        return bits.numpy().view(ml_dtypes.bfloat16)
    wanted = torch.float16 if dtype == np.float16 else torch.float32
    return narrow(tensor, wanted, name).numpy()
