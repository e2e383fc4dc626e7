"""Both banks of a linear in the kernels' own layout, and the call of the kernel.

CPU    river_trt_cpu::linear, float32 panels whatever the model's dtype
CUDA   river_trt_cuda::packed_linear; groups of 32: fused_linear

Not run in vLLM on a GPU yet; the operators themselves have been (docs/gpu).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from river_trt.weight_panels import PANEL, num_panels, panel_rows, quantised_panels

PACKED_GROUPS = (64, 128)
DEFAULT_VARIANT = -1  # of the packed bank's kernel: what the tuner's table says


@dataclass(frozen=True, slots=True)
class BankShape:
    """A linear of one rank: outputs, inputs, weights a group of its river."""

    n: int
    k: int
    group_size: int
    rounds: bool  # the river's inputs, to 8 bits a group


class CpuBanks(nn.Module):
    """Panels of float32 and of 4-bit codes (plugins/cpu/kernels.h)."""

    weight: Tensor
    bias: Tensor | None
    qweight: Tensor | None
    scales: Tensor | None
    zero_points: Tensor | None
    pre_scale: Tensor | None

    def __init__(self, shape: BankShape, parts: Mapping[str, Tensor]) -> None:
        """parts: of the checkpoint, in the dialect's layout; no qweight: no river."""
        super().__init__()
        self.shape = shape
        bias = None
        if "bias" in parts:
            bias = torch.zeros(num_panels(shape.n) * PANEL)
            bias[: shape.n] = parts["bias"].float()
        river: dict[str, Tensor | None] = dict.fromkeys(("qweight", "scales", "zero_points"))
        if "qweight" in parts:
            river |= _river_panels(parts)
        self.register_buffer("weight", _dense(panel_rows(parts["weight"].float().numpy())))
        self.register_buffer("bias", bias)
        for name, value in river.items():
            self.register_buffer(name, value)
        self.register_buffer("pre_scale", parts.get("pre_scale"))

    def forward(self, x: Tensor, use_river: Tensor | None) -> Tensor:
        """x [tokens, K], use_river bool [tokens]; None: the backbone alone."""
        flags = None if use_river is None else use_river.unsqueeze(0)
        bank = (self.qweight, self.scales, self.zero_points, self.pre_scale)
        river = (None,) * 4 if flags is None else bank
        rows, shape = x.float().unsqueeze(0), self.shape
        y: Tensor = torch.ops.river_trt_cpu.linear(
            rows, flags, self.weight, *river, self.bias, shape.n, shape.rounds
        )
        return y.squeeze(0).to(x.dtype)


class CudaBanks(nn.Module):
    """The backbone as it is, the river packed (plugins/kernels/packed.h)."""

    weight: Tensor
    bias: Tensor | None
    packed: Tensor | None  # groups of 64 and 128; in place of the next three
    qweight: Tensor | None
    scales: Tensor | None
    zero_points: Tensor | None
    pre_scale: Tensor | None

    def __init__(self, shape: BankShape, parts: Mapping[str, Tensor]) -> None:
        """parts: of the checkpoint, in the dialect's layout; no qweight: no river."""
        super().__init__()
        self.shape = shape
        packed: Tensor | None = None
        river: dict[str, Tensor | None] = dict.fromkeys(("qweight", "scales", "zero_points"))
        if "qweight" in parts:
            scales, zero_points = parts["scales"].half(), parts.get("zero_points")
            if shape.group_size in PACKED_GROUPS:
                packed = torch.ops.river_trt_cuda.pack(
                    parts["qweight"], scales, zero_points, shape.k
                )
            else:
                river = {"qweight": parts["qweight"], "scales": scales, "zero_points": zero_points}
        pre_scale = parts.get("pre_scale")
        kept = river | {
            "weight": parts["weight"],
            "bias": parts.get("bias"),
            "packed": packed,
            "pre_scale": None if pre_scale is None else pre_scale.half(),
        }
        for name, value in kept.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor, use_river: Tensor | None) -> Tensor:
        """x [tokens, K], use_river bool [tokens]; None: the backbone alone."""
        rows, shape = x.unsqueeze(0), self.shape
        flags = None if use_river is None else use_river.unsqueeze(0)
        chooses = flags is not None
        pre_scale = self.pre_scale if chooses else None
        plain = (None, 0.0, False, None)  # no norm, no SiLU, no residual inside
        if shape.group_size in PACKED_GROUPS:
            y: Tensor = torch.ops.river_trt_cuda.packed_linear(
                *(rows, flags, self.weight, self.packed if chooses else None),
                *(shape.n, shape.group_size, pre_scale, self.bias, *plain),
                *(shape.rounds, False, None, None, DEFAULT_VARIANT),
            )
        else:
            river = (self.qweight, self.scales, self.zero_points) if chooses else (None,) * 3
            y = torch.ops.river_trt_cuda.fused_linear(
                rows, flags, self.weight, *river, pre_scale, self.bias, *plain
            )
        return y.squeeze(0)


def make_banks(shape: BankShape, parts: Mapping[str, Tensor]) -> CpuBanks | CudaBanks:
    """For the device that the parts lie on."""
    on_cpu = parts["weight"].device.type == "cpu"
    return (CpuBanks if on_cpu else CudaBanks)(shape, parts)


def _river_panels(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    qweight, zero_points = parts["qweight"], parts.get("zero_points")
    codes = torch.stack([qweight & 0xF, qweight >> 4], dim=-1).flatten(-2)
    zeros = None if zero_points is None else zero_points.numpy()
    found = quantised_panels(codes.numpy(), parts["scales"].numpy(), zeros, 4)
    return {name.removesuffix("_panels"): _dense(value) for name, value in found.items()}


def _dense(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
