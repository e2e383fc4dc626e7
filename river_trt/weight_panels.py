"""Panels of 16 output columns: weights as the native kernels read them (plugins/cpu/kernels.h)."""

import numpy as np

PANEL = 16


def num_panels(rows: int, halves: int = 1) -> int:
    """Panels of a weight [rows, K] whose halves are padded apart."""
    return halves * -(-(rows // halves) // PANEL)


def panel_rows(weight: np.ndarray, halves: int = 1) -> np.ndarray:
    """[N, K] float32 as [P, K, 16]."""
    return stack_panels(weight, halves).transpose(0, 2, 1)


def quantised_panels(
    codes: np.ndarray,  # [N, groups, group_size] uint8
    scales: np.ndarray,  # [N, groups] float32
    zero_points: np.ndarray | None,  # [N, groups] uint8
    bits: int,
    halves: int = 1,
) -> dict[str, np.ndarray]:
    """qweight [P, groups, group_size / 4, 8 * bits] uint8, scales and zero points [P, groups, 16].

    A row of qweight holds four inputs of 16 columns. With 4 bits, columns 0..7 lie in the low
    halves of its bytes and columns 8..15 in the high ones.
    """
    groups, size = codes.shape[1:]
    panels = stack_panels(codes, halves).reshape(-1, PANEL, groups, size // 4, 4)
    fours = panels.transpose(0, 2, 3, 1, 4)  # [P, groups, group_size / 4, 16, 4]
    if bits == 4:
        fours = fours[..., :8, :] | (fours[..., 8:, :] << 4)
    parts = {
        "qweight_panels": fours.reshape(*fours.shape[:3], 8 * bits),
        "scales_panels": stack_panels(scales, halves).transpose(0, 2, 1),
    }
    if zero_points is not None:
        parts["zero_points_panels"] = stack_panels(zero_points, halves).transpose(0, 2, 1)
    return parts


def stack_panels(rows: np.ndarray, halves: int) -> np.ndarray:
    """[N, ...] to [P, 16, ...], padded with zeros; panels of the halves take turns."""
    rest = rows.shape[1:]
    parts = []
    for part in np.split(rows, halves):
        padding = [(0, -len(part) % PANEL), *((0, 0) for _ in rest)]
        parts.append(np.pad(part, padding).reshape(-1, PANEL, *rest))
    return np.stack(parts, axis=1).reshape(-1, PANEL, *rest)
