"""Quantising a layer into the banks."""

import torch

from builders.quantisers import make_quantiser
from builders.river_bank import fold_down_pre_scale


def test_folded_scaling_of_down_gives_the_same_mlp():
    """down's input scaling in the rows of up, and nowhere else."""
    torch.manual_seed(0)
    awq = make_quantiser("awq", 32, False)
    hidden, wide, tokens = 64, 96, 48
    x, middle = torch.randn(tokens, hidden), torch.randn(tokens, wide) * torch.rand(wide) * 4
    river = {
        "gate_up": awq.quantise(torch.randn(2 * wide, hidden), x),
        "down": awq.quantise(torch.randn(hidden, wide), middle),
    }
    folded = fold_down_pre_scale(river)
    assert river["down"].pre_scale is not None
    assert not torch.allclose(river["down"].pre_scale, torch.ones(wide))
    assert folded["down"].pre_scale is None

    def mlp(banks):
        gate, up = (x @ banks["gate_up"].dequantise(hidden).T).chunk(2, dim=-1)
        return (torch.nn.functional.silu(gate) * up) @ banks["down"].dequantise(wide).T

    expected = mlp(river)
    error = (mlp(folded) - expected).norm() / expected.norm()
    assert error < 1e-5
