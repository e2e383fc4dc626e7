"""A linear with two banks in vLLM: one tensor-parallel rank's part of the checkpoint's tensors.

checkpoint (the dialect's layout) -- load: this rank's part -- pack: the kernels' layout (banks.py)
"""

import torch
from torch import Tensor, nn
from vllm.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_reduce,
)

from river_trt.river_checkpoint import RiverCheckpoint
from river_trt.vllm.banks import BankShape, CpuBanks, CudaBanks, make_banks
from river_trt.vllm.sharding import shard_linear


class RiverLinear(nn.Module):
    """y [tokens, N]: each row through the bank that its flag names."""

    banks: CpuBanks | CudaBanks | None

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
        n, k = checkpoint.linear_shapes[name]
        if self.shard.rows is not None:
            n = sum(part.stop - part.start for part in self.shard.rows)
        if self.shard.columns is not None:
            k = self.shard.columns.stop - self.shard.columns.start
        size = checkpoint.group_size
        self.shape = BankShape(n, k, size, rounds)
        # The ranks' outputs are summed: one of them brings the bias.
        self.has_bias = name in checkpoint.biased and not (self.shard.is_summed and rank)
        self.has_river = layer > 0
        self.banks = None
        groups = -(-k // size)
        shapes: dict[str, tuple[torch.dtype | None, tuple[int, ...]]] = {"weight": (None, (n, k))}
        if name in checkpoint.biased:
            shapes["bias"] = (None, (n,))
        if self.has_river:
            shapes["qweight"] = (torch.uint8, (n, groups, size // 2))
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
        self.get_parameter(part).copy_(self._part_of(part, whole))

    def pack(self) -> None:
        """From the checkpoint's layout, once all parts are there, to the kernels'."""
        parts = {name: parameter.data for name, parameter in self.named_parameters(recurse=False)}
        if not self.has_bias:
            parts.pop("bias", None)
        self.banks = make_banks(self.shape, parts)
        for name in [name for name, _ in self.named_parameters(recurse=False)]:
            delattr(self, name)

    def forward(self, x: Tensor, use_river: Tensor | None) -> Tensor:
        """x [tokens, K], use_river bool [tokens]; None: all rows take the backbone."""
        assert self.banks is not None, "weights are loaded and packed before the first step"
        y: Tensor = self.banks(x, use_river if self.has_river else None)
        return tensor_model_parallel_all_reduce(y) if self.shard.is_summed else y

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
        size = self.shape.group_size
        return whole[:, columns.start // size : -(-columns.stop // size)]
