"""A linear with two banks in vLLM: the banks of one tensor-parallel rank, and the kernels' layout.

    checkpoint (the dialect's layout) -- load: this rank's part -- pack: the kernels' own layout

CPU    river_trt_cpu::linear, float32 panels whatever the model's dtype
CUDA   river_trt_cuda::packed_linear; groups of 32: fused_linear
"""

import torch
from torch import Tensor, nn
from vllm.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_reduce,
)

from river_trt.river_checkpoint import RiverCheckpoint
from river_trt.vllm.sharding import shard_linear
from river_trt.weight_panels import PANEL, num_panels, panel_rows, quantised_panels

PACKED_GROUPS = (64, 128)
DEFAULT_VARIANT = -1  # of the packed bank's kernel: what the tuner's table says


class RiverLinear(nn.Module):
    """y [tokens, N]: each row through the bank that its flag names."""

    def __init__(
        self,
        checkpoint: RiverCheckpoint,
        name: str,  # qkv, o, gate_up or down
        layer: int,  # from 0: the first one has no river
        rounds: bool,  # the river's inputs, to 8 bits a group
    ) -> None:
        super().__init__()
        ranks, rank = get_tensor_model_parallel_world_size(), get_tensor_model_parallel_rank()
        self.shard = shard_linear(checkpoint, name, rank, ranks)
        self.group_size, self.rounds = checkpoint.group_size, rounds
        n, k = checkpoint.linear_shapes[name]
        if self.shard.rows is not None:
            n = sum(part.stop - part.start for part in self.shard.rows)
        if self.shard.columns is not None:
            k = self.shard.columns.stop - self.shard.columns.start
        self.n, self.k = n, k
        # The ranks' outputs are summed: one of them brings the bias.
        self.has_bias = name in checkpoint.biased and not (self.shard.is_summed and rank)
        self.has_river = layer > 0
        groups = -(-k // self.group_size)
        shapes: dict[str, tuple[torch.dtype | None, tuple[int, ...]]] = {"weight": (None, (n, k))}
        if name in checkpoint.biased:
            shapes["bias"] = (None, (n,))
        if self.has_river:
            shapes["qweight"] = (torch.uint8, (n, groups, self.group_size // 2))
            shapes["scales"] = (torch.float32, (n, groups))
            if not checkpoint.symmetric:
                shapes["zero_points"] = (torch.uint8, (n, groups))
            if name in checkpoint.scaled:
                shapes["pre_scale"] = (torch.float32, (k,))
        for part, (dtype, shape) in shapes.items():
            value = nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)
            self.register_parameter(part, value)

    def load(self, part: str, whole: Tensor) -> None:
        """Take this rank's part of one of the checkpoint's tensors."""
        parameter: Tensor = getattr(self, part)
        parameter.copy_(self._part_of(part, whole))

    def _part_of(self, part: str, whole: Tensor) -> Tensor:
        rows, columns = self.shard.rows, self.shard.columns
        if rows is not None and part != "pre_scale":
            whole = torch.cat([whole[each] for each in rows])
        if columns is None or part == "bias":
            return whole
        if part == "weight":
            return whole[:, columns]
        if part == "pre_scale":
            return whole[columns]
        size = self.group_size
        return whole[:, columns.start // size : -(-columns.stop // size)]

    def pack(self) -> None:
        """From the checkpoint's layout, once all parts are there, to the kernels'."""
        if self.weight.device.type == "cpu":
            packed = self._pack_for_cpu()
        else:
            packed = self._pack_for_cuda()
        for name in list(self._parameters):
            delattr(self, name)
        for name, value in packed.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, x: Tensor, use_river: Tensor | None) -> Tensor:
        """x [tokens, K], use_river bool [tokens]; None: all rows take the backbone."""
        flags = use_river if self.has_river else None
        y = self._on_cpu(x, flags) if x.device.type == "cpu" else self._on_cuda(x, flags)
        return tensor_model_parallel_all_reduce(y) if self.shard.is_summed else y

    def _pack_for_cpu(self) -> dict[str, Tensor | None]:
        panels: dict[str, Tensor | None] = {"bias": None, "pre_scale": None}
        panels |= dict.fromkeys(("qweight", "scales", "zero_points"))
        panels["weight"] = _dense(panel_rows(self.weight.float().numpy()))
        if self.has_bias:
            padded = torch.zeros(num_panels(self.n) * PANEL)
            padded[: self.n] = self.bias.float()
            panels["bias"] = padded
        if self.has_river:
            codes = torch.stack([self.qweight & 0xF, self.qweight >> 4], dim=-1).flatten(-2)
            zero_points = getattr(self, "zero_points", None)
            parts = quantised_panels(
                codes.numpy(),
                self.scales.numpy(),
                None if zero_points is None else zero_points.numpy(),
                4,
            )
            panels |= {name.removesuffix("_panels"): _dense(v) for name, v in parts.items()}
            if hasattr(self, "pre_scale"):
                panels["pre_scale"] = self.pre_scale.data
        return panels

    def _on_cpu(self, x: Tensor, use_river: Tensor | None) -> Tensor:
        chooses = use_river is not None
        y: Tensor = torch.ops.river_trt_cpu.linear(
            x.float().unsqueeze(0),
            None if use_river is None else use_river.unsqueeze(0),
            self.weight,
            self.qweight if chooses else None,
            self.scales if chooses else None,
            self.zero_points if chooses else None,
            self.pre_scale if chooses else None,
            self.bias,
            self.n,
            self.rounds,
        )
        return y.squeeze(0).to(x.dtype)

    def _pack_for_cuda(self) -> dict[str, Tensor | None]:
        kept: dict[str, Tensor | None] = {"weight": self.weight.data}
        kept["bias"] = self.bias.data if self.has_bias else None
        names = ("qweight", "scales", "zero_points", "pre_scale", "packed")
        kept |= dict.fromkeys(names)
        if not self.has_river:
            return kept
        scales = self.scales.data.half()
        zero_points = self.zero_points.data if hasattr(self, "zero_points") else None
        if hasattr(self, "pre_scale"):
            kept["pre_scale"] = self.pre_scale.data.half()
        if self.group_size in PACKED_GROUPS:
            kept["packed"] = torch.ops.river_trt_cuda.pack(
                self.qweight.data, scales, zero_points, self.k
            )
            return kept
        return kept | {"qweight": self.qweight.data, "scales": scales, "zero_points": zero_points}

    def _on_cuda(self, x: Tensor, use_river: Tensor | None) -> Tensor:
        rows = x.unsqueeze(0)
        flags = None if use_river is None else use_river.unsqueeze(0)
        chooses = flags is not None
        pre_scale = self.pre_scale if chooses else None
        if self.group_size in PACKED_GROUPS:
            y: Tensor = torch.ops.river_trt_cuda.packed_linear(
                *(rows, flags, self.weight, self.packed if chooses else None),
                *(self.n, self.group_size, pre_scale, self.bias, None, 0.0, False, None),
                *(self.rounds, False, None, None, DEFAULT_VARIANT),
            )
        else:
            y = torch.ops.river_trt_cuda.fused_linear(
                *(rows, flags, self.weight, self.qweight if chooses else None),
                *(self.scales if chooses else None, self.zero_points if chooses else None),
                *(pre_scale, self.bias, None, 0.0, False, None),
            )
        return y.squeeze(0)


def _dense(array: object) -> Tensor:
    return torch.from_numpy(array).contiguous()  # type: ignore[arg-type]
