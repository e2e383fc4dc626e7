"""Rounding by curvature: errors must cancel where they are felt, and nothing else may change."""

import pytest
import torch
from torch import Tensor

from builders.quantisers import make_quantiser
from builders.quantisers.base import RiverWeight
from builders.tuning.rounding import Curvature, round_by_curvature

N, K = 96, 88  # the last group of 32 is part filled


def correlated(size: int, seeded: torch.Generator) -> Tensor:
    """A curvature most of which is in a few directions."""
    directions = torch.randn(size, 3 * size, generator=seeded) / torch.arange(1, 3 * size + 1)
    return directions @ directions.T


def cost(weight: Tensor, river: RiverWeight, curvature: Curvature) -> float:
    errors, n = river.dequantise(K) - weight, curvature.outputs.shape[1]
    parts = zip(errors.split(n), curvature.outputs, strict=True)
    return sum(float(((outputs @ e) * (e @ curvature.inputs)).sum()) for e, outputs in parts)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("scaled", [False, True])
def test_errors_cancel(symmetric, parts, scaled):
    seeded = torch.Generator().manual_seed(0)
    weights = [torch.randn(N, K, generator=seeded) for _ in range(2)]
    pre_scale = torch.rand(K, generator=seeded) + 0.5 if scaled else None
    quantiser = make_quantiser("rtn", 32, symmetric=symmetric)
    rivers = []
    for weight in weights:
        made = quantiser.quantise(weight if pre_scale is None else weight / pre_scale)
        rivers.append(RiverWeight(made.qweight, made.scales, made.zero_points, pre_scale=pre_scale))
    curvatures = [
        Curvature(
            correlated(K, seeded),
            torch.stack([correlated(N // parts, seeded) for _ in range(parts)]),
        )
        for _ in weights
    ]
    found = round_by_curvature(weights, rivers, curvatures)
    for weight, before, after, curvature in zip(weights, rivers, found, curvatures, strict=True):
        assert cost(weight, after, curvature) < 0.3 * cost(weight, before, curvature)
        assert after.num_bytes == before.num_bytes
        assert torch.equal(after.scales, before.scales)
        padding = after.codes().flatten(1)[:, K:]
        assert torch.equal(padding, before.codes().flatten(1)[:, K:])


def test_without_correlations_it_is_rounding_to_nearest():
    weight = torch.randn(N, K, generator=torch.Generator().manual_seed(0))
    river = make_quantiser("rtn", 32, symmetric=False).quantise(weight)
    (found,) = round_by_curvature([weight], [river], [Curvature(torch.eye(K), torch.eye(N)[None])])
    assert torch.equal(found.qweight, river.qweight)


def test_a_curvature_that_is_not_positive_is_damped():
    """An input that is always zero, and sums in bfloat16 that are not quite a square."""
    weight = torch.randn(N, K, generator=torch.Generator().manual_seed(0))
    river = make_quantiser("rtn", 32, symmetric=False).quantise(weight)
    inputs = torch.ones(K, K) - 0.1 * torch.eye(K)
    inputs[:5], inputs[:, :5] = 0, 0
    (found,) = round_by_curvature([weight], [river], [Curvature(inputs, torch.zeros(1, N, N))])
    assert found.codes().max() <= 15
    assert torch.isfinite(found.dequantise(K)).all()
