"""Codes chosen so that the rounding errors of a linear cancel where the model would feel them.

What an error R [N, K] costs in KL is  R' outputs R inputs  (its trace), with the curvature of the
linear's outputs [N, N] and inputs [K, K] (builders/tuning/curvature.py). Both are factored,
H = (U + I) D (U + I)', so the cost is a sum of squares over the elements in order, each known once
those before it are rounded: every weight is rounded after adding what the earlier ones, of its row
and of the rows before, still owe. It is GPTQ's order in two directions (YAQA, arXiv 2505.22988).
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from builders.quantisers.base import MAX_CODE, SYMMETRIC_ZERO, RiverWeight, to_groups

ROWS = 64  # rounded as if they did not know each other
ROWS_AT_ONCE = 4096  # of `round_rows`, in memory
COLUMNS = 64  # whose feedback is added at once to the columns after them
DAMPING = 0.5  # of each input's and output's own curvature: what the text has not shown


@dataclass(frozen=True, slots=True, eq=False)
class Curvature:
    """Of a linear: what its errors cost, in KL a token, is half the trace above."""

    inputs: Tensor  # [K, K]
    outputs: Tensor  # [parts, N / parts, N / parts]: rows of one part do not know the other's


def round_by_curvature(
    weights: list[Tensor],  # [N, K] of one linear in several layers, which are rounded at once
    rivers: list[RiverWeight],  # their grids
    curvatures: list[Curvature],
) -> list[RiverWeight]:
    """The rivers with other codes; scales, zero points and bytes stay."""
    k = weights[0].shape[1]
    steps = torch.stack([_columns(river.scales, river, k) for river in rivers])
    zeros = torch.stack([_columns(_zero_points(river), river, k) for river in rivers])
    pre_scales = [river.pre_scale for river in rivers]
    if pre_scales[0] is not None:
        steps *= torch.stack(pre_scales)[:, None]  # type: ignore[arg-type]
    orders = [c.inputs.diagonal().argsort(descending=True) for c in curvatures]
    inputs = torch.stack(
        [_unit_upper(c.inputs[o][:, o]) for c, o in zip(curvatures, orders, strict=True)]
    )
    codes = []
    start = 0
    for part in range(len(curvatures[0].outputs)):
        outputs = torch.stack([_unit_upper(c.outputs[part]) for c in curvatures])
        rows = slice(start, start + outputs.shape[1])
        start = rows.stop
        of_part = [_in_order(xs, rows, orders) for xs in (weights, steps, zeros)]
        chosen = _round_part(of_part[0], of_part[1], of_part[2], inputs, outputs)
        codes.append(torch.stack([c[:, o.argsort()] for c, o in zip(chosen, orders, strict=True)]))
    return [
        _with_codes(river, found) for river, found in zip(rivers, torch.cat(codes, 1), strict=True)
    ]


def round_rows(
    weight: Tensor,  # [N, K], whose rows do not know each other
    river: RiverWeight,
    inputs: Tensor,  # [K, K]: curvature of what the linear is given
    damping: float,
) -> RiverWeight:
    """The river with other codes, of one linear: GPTQ."""
    steps, zeros = _columns(river.scales, river, len(inputs)), _zero_points(river)
    zeros = _columns(zeros, river, len(inputs))
    if river.pre_scale is not None:
        steps = steps * river.pre_scale
    order = inputs.diagonal().argsort(descending=True)
    upper = _unit_upper(inputs[order][:, order], damping)[None]
    codes = []
    for first in range(0, len(weight), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        columns = [x[rows][:, order].T[None].contiguous() for x in (weight, steps, zeros)]
        codes.append(_round_columns(columns[0], columns[1], columns[2], upper)[0].T)
    return _with_codes(river, torch.cat(codes)[:, order.argsort()])


def _in_order(xs: Iterable[Tensor], rows: slice, orders: list[Tensor]) -> Tensor:
    return torch.stack([x[rows][:, order] for x, order in zip(xs, orders, strict=True)])


def _round_part(
    weights: Tensor,  # [layers, N, K]
    steps: Tensor,  # [layers, N, K]: what one code is worth
    zeros: Tensor,  # [layers, N, K]
    inputs: Tensor,  # [layers, K, K] unit upper triangular
    outputs: Tensor,  # [layers, N, N] unit upper triangular
) -> Tensor:
    """Codes, float32 [layers, N, K]."""
    errors, codes = torch.zeros_like(weights), torch.zeros_like(weights)
    for start in range(0, weights.shape[1], ROWS):
        rows = slice(start, start + ROWS)
        owed = torch.zeros_like(weights[:, rows])  # by the rows before
        if start:
            within = torch.linalg.inv(outputs[:, rows, rows])
            owed = (outputs[:, :start, rows] @ within).mT @ errors[:, :start]
        # Columns first: a column of all layers is then one piece of memory.
        target = (weights[:, rows] + owed).mT.contiguous()
        step, zero = steps[:, rows].mT.contiguous(), zeros[:, rows].mT.contiguous()
        found = _round_columns(target, step, zero, inputs)
        codes[:, rows] = found.mT
        errors[:, rows] = weights[:, rows] - ((found - zero) * step).mT
    return codes


def _round_columns(target: Tensor, step: Tensor, zero: Tensor, inputs: Tensor) -> Tensor:
    """Codes [layers, K, rows], one column after the other."""
    fed, left, codes = target.clone(), torch.zeros_like(target), torch.zeros_like(target)
    k = target.shape[1]
    for start in range(0, k, COLUMNS):
        end = min(k, start + COLUMNS)
        fed[:, start:end] += inputs[:, :start, start:end].mT @ left[:, :start]
        for j in range(start, end):
            code = (fed[:, j] / step[:, j] + zero[:, j]).round_().clamp_(0, MAX_CODE)
            codes[:, j] = code
            left[:, j] = target[:, j] - (code - zero[:, j]) * step[:, j]
            fed[:, j + 1 : end].addcmul_(inputs[:, j, j + 1 : end, None], left[:, j, None])
    return codes


def _unit_upper(curvature: Tensor, damping: float = DAMPING) -> Tensor:
    """U + I of (U + I) D (U + I)', damped until it can be factored."""
    symmetric = (curvature + curvature.T) / 2
    own = symmetric.diagonal()
    own = own.clamp_min(1e-6 * float(own.mean()) + torch.finfo(torch.float32).tiny)
    while True:
        damped = symmetric + torch.diag(damping * own)
        factor, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not failed:
            upper: Tensor = factor.flip(0, 1)
            return upper / upper.diagonal()
        damping *= 2


def _zero_points(river: RiverWeight) -> Tensor:
    if river.zero_points is None:
        return torch.full_like(river.scales, SYMMETRIC_ZERO)
    return river.zero_points.float()


def _columns(of_groups: Tensor, river: RiverWeight, k: int) -> Tensor:
    """[N, groups] -> [N, K]."""
    return of_groups.repeat_interleave(river.group_size, 1)[:, :k]


def _with_codes(river: RiverWeight, codes: Tensor) -> RiverWeight:
    """codes [N, K]; the padding gets the code of zero."""
    zeros = _zero_points(river)
    groups = to_groups(codes - _columns(zeros, river, codes.shape[1]), river.group_size)
    made = RiverWeight.from_codes(
        groups + zeros[..., None],
        river.scales,
        zeros,
        symmetric=river.zero_points is None,
    )
    return replace(river, qweight=made.qweight)
