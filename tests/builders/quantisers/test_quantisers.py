import math

import numpy as np
import pytest
import torch

from builders.quantisers import GROUP_SIZES, QUANTISERS, RiverWeight, make_quantiser
from river_trt.errors import RiverError

NAMES = sorted(QUANTISERS)
# HQQ fits zero points, so it has no symmetric form.
KINDS = [(name, symmetric) for name in NAMES for symmetric in (False, True)]
KINDS.remove(("hqq", True))
SCALES_INPUTS = ("awq", "tuned")
SHAPE = (48, 192)  # 192 is one and a half groups of 128


@pytest.fixture(scope="module")
def weight() -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * 0.05


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    """Few inputs are large, as in a real model."""
    generator = torch.Generator().manual_seed(1)
    channel = torch.rand(SHAPE[1], generator=generator).pow(4) * 10 + 0.1
    return torch.randn(256, SHAPE[1], generator=generator) * channel


def dequantise_by_hand(river: RiverWeight, in_features: int) -> np.ndarray:
    """The formula of RiverWeight's docstring, one group at a time."""
    packed = river.qweight.numpy()
    scales = river.scales.numpy()
    rows, groups, half = packed.shape
    out = np.zeros((rows, groups * half * 2), np.float32)
    for group in range(groups):
        zero = (
            np.full(rows, 8) if river.zero_points is None else river.zero_points.numpy()[:, group]
        )
        for byte in range(half):
            for k, code in enumerate((packed[:, group, byte] & 15, packed[:, group, byte] >> 4)):
                column = group * half * 2 + byte * 2 + k
                out[:, column] = (code.astype(np.float32) - zero) * scales[:, group]
    out = out[:, :in_features]
    return out if river.pre_scale is None else out * river.pre_scale.numpy()


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize(("name", "symmetric"), KINDS)
def test_layout_and_error(
    name: str, group_size: int, symmetric: bool, weight: torch.Tensor, inputs: torch.Tensor
) -> None:
    quantiser = make_quantiser(name, group_size, symmetric)
    assert quantiser.name == name
    river = quantiser.quantise(weight, inputs)
    groups = math.ceil(SHAPE[1] / group_size)
    assert river.qweight.shape == (SHAPE[0], groups, group_size // 2)
    assert river.scales.shape == (SHAPE[0], groups)
    assert river.qweight.dtype is torch.uint8
    assert river.scales.dtype is torch.float32
    assert river.scales.isfinite().all() and (river.scales > 0).all()
    assert (river.zero_points is None) == symmetric
    if river.zero_points is not None:
        assert river.zero_points.dtype is torch.uint8
        assert river.zero_points.shape == (SHAPE[0], groups)
        assert river.zero_points.max() <= 15
    assert (river.pre_scale is not None) == (name in SCALES_INPUTS)
    assert river.group_size == group_size

    dequantised = river.dequantise(SHAPE[1])
    np.testing.assert_allclose(
        dequantised.numpy(), dequantise_by_hand(river, SHAPE[1]), rtol=1e-6, atol=1e-9
    )
    error = inputs @ (dequantised - weight).T
    assert error.norm() < 0.13 * (inputs @ weight.T).norm()


@pytest.mark.parametrize(("name", "symmetric"), KINDS)
def test_padding_of_a_part_filled_group_is_zero(
    name: str, symmetric: bool, weight: torch.Tensor, inputs: torch.Tensor
) -> None:
    """A kernel that reads whole groups must add nothing for the padding."""
    river = make_quantiser(name, 128, symmetric).quantise(weight, inputs)
    padding = river.codes()[:, -1, 64:]
    if river.zero_points is None:
        assert (padding == 8).all()
    else:
        assert (padding == river.zero_points[:, -1:]).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_part_filled_group_is_fitted_to_what_it_holds(name: str, weight: torch.Tensor) -> None:
    """The tail's 64 columns in a group of 128 get the grid they get in a group of 64."""
    if name in SCALES_INPUTS:
        pytest.skip("its input scaling depends on the whole row")
    tail = weight[:, 128:]
    alone = make_quantiser(name, 64, False).quantise(tail).dequantise(64)
    together = make_quantiser(name, 128, False).quantise(weight).dequantise(SHAPE[1])[:, 128:]
    if name == "rtn":
        assert torch.equal(alone, together)
    assert (together - tail).norm() < 1.1 * (alone - tail).norm()


@pytest.mark.parametrize(("name", "symmetric"), KINDS)
def test_weights_on_the_grid_are_exact(name: str, symmetric: bool, inputs: torch.Tensor) -> None:
    """A 4-bit weight stays what it is, so quantising twice loses nothing."""
    if name in SCALES_INPUTS:
        pytest.skip("its input scaling moves the weights off the grid")
    codes = torch.arange(16).repeat(SHAPE[0], SHAPE[1] // 16).float()
    exact = (codes - 8) * 0.25
    river = make_quantiser(name, 64, symmetric).quantise(exact, inputs)
    torch.testing.assert_close(river.dequantise(SHAPE[1]), exact)


@pytest.mark.parametrize(("name", "symmetric"), KINDS)
def test_all_zero_rows_and_one_sided_groups(
    name: str, symmetric: bool, weight: torch.Tensor, inputs: torch.Tensor
) -> None:
    odd = weight.clone()
    odd[0] = 0
    odd[1] = odd[1].abs() + 0.5
    odd[2] = -odd[2].abs() - 0.5
    odd[3, 1:] = 0
    dequantised = make_quantiser(name, 64, symmetric).quantise(odd, inputs).dequantise(SHAPE[1])
    assert dequantised.isfinite().all()
    assert (dequantised[0] == 0).all()
    assert (dequantised[1:3] - odd[1:3]).norm() < 0.13 * odd[1:3].norm()
    torch.testing.assert_close(dequantised[3], odd[3], rtol=0.1, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_row_blocks_do_not_change_the_layout(
    name: str, weight: torch.Tensor, inputs: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_quantiser(name, 64, False).quantise(weight, inputs)
    monkeypatch.setattr("builders.quantisers.base.ROW_BLOCK_ELEMENTS", 7 * SHAPE[1])
    blocks = make_quantiser(name, 64, False).quantise(weight, inputs)
    assert blocks.qweight.shape == whole.qweight.shape
    difference = blocks.dequantise(SHAPE[1]) - whole.dequantise(SHAPE[1])
    assert difference.norm() < 0.05 * weight.norm()  # hqq stops early by the error of a block


@pytest.mark.parametrize("symmetric", [False, True])
def test_awq_changes_the_output_less_than_rtn(
    symmetric: bool, weight: torch.Tensor, inputs: torch.Tensor
) -> None:
    def output_error(name: str) -> float:
        river = make_quantiser(name, 64, symmetric).quantise(weight, inputs)
        return float((inputs @ (river.dequantise(SHAPE[1]) - weight).T).norm())

    assert output_error("awq") < 0.8 * output_error("rtn")


def test_hqq_has_no_symmetric_form() -> None:
    with pytest.raises(RiverError, match="hqq fits zero points, so it cannot be symmetric"):
        make_quantiser("hqq", 64, True)


def test_awq_needs_inputs(weight: torch.Tensor) -> None:
    quantiser = make_quantiser("awq", 64, False)
    assert quantiser.needs_inputs
    with pytest.raises(RiverError, match="awq needs inputs"):
        quantiser.quantise(weight)


def test_awq_is_silent(
    weight: torch.Tensor, inputs: torch.Tensor, capfd: pytest.CaptureFixture[str]
) -> None:
    make_quantiser("awq", 64, False).quantise(weight, inputs)
    assert capfd.readouterr() == ("", "")


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RiverError, match="unknown quantiser 'gguf'; there are .*rtn.*hqq.*awq"):
        make_quantiser("gguf", 64, False)


@pytest.mark.parametrize("group_size", [0, 16, 48, 256, -32])
def test_group_size_that_is_not_offered(group_size: int) -> None:
    with pytest.raises(RiverError, match=f"group size {group_size} is not offered.*32, 64, 128"):
        make_quantiser("rtn", group_size, False)
