"""Nothing becomes infinite unseen: every way from a wide type to a narrow one."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.build import BuildOptions, build
from builders.narrowing import narrow, to_array
from river_trt.cli.main import main
from river_trt.errors import CheckpointError, RiverError
from tests.builders.families.tiny_models import TINY_MODELS, save_tiny_model
from tests.builders.tiny_llama import save_tiny_llama

UP = "model.layers.0.mlp.up_proj.weight"


def test_rounded_as_torch_does_and_refused_beyond_the_end() -> None:
    values = torch.tensor([65504.0, -65519.0, 1e-8, 0.1])
    assert torch.equal(narrow(values, torch.float16, "w"), values.half())
    assert torch.equal(narrow(values * 1e9, torch.bfloat16, "w"), (values * 1e9).bfloat16())
    with pytest.raises(CheckpointError, match=r"w holds 65520, but float16 ends at 65504: use"):
        narrow(torch.tensor([1.0, -65520.0]), torch.float16, "w")
    with pytest.raises(CheckpointError, match=r"w holds 3\.4e\+38, but bfloat16 ends at"):
        narrow(torch.tensor([3.4e38]), torch.bfloat16, "w")
    with pytest.raises(CheckpointError, match="w holds inf, which is no number"):
        narrow(torch.tensor([float("inf")]), torch.float16, "w")


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_arrays_have_the_bits_of_tensors(dtype: type) -> None:
    values = torch.linspace(-3, 3, 101).bfloat16()
    array = to_array(values, np.dtype(dtype), "w")
    assert array.dtype == dtype
    wanted = {np.float32: torch.float32, np.float16: torch.float16}.get(dtype, torch.bfloat16)
    assert np.array_equal(array.astype(np.float32), values.to(wanted).float().numpy())


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A bfloat16 checkpoint with a weight of 1e5."""
    save_tiny_llama(tmp_path / "model", torch.bfloat16, hidden_size=64)
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors[UP] = tensors[UP].clone()
    tensors[UP][2, 3] = 1e5
    save_file(tensors, file, {"format": "pt"})
    return tmp_path / "model"


def test_convert_refuses_a_weight_that_float16_has_not(
    large: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["convert", "--format", "tensorrt-llm", "--model", str(large), "--quantiser", "rtn"]
    out = large.parent / "out"
    assert main([*command, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "holds 99840, but float16 ends at 65504: use bfloat16" in error and not out.exists()
    assert main([*command, "--out", str(out), "--dtype", "bfloat16"]) == 0


def test_a_cpu_backbone_of_16_bits_refuses_it(large: Path) -> None:
    options = BuildOptions(
        str(large), large.parent / "out", quantiser="rtn", backbone_bits=16, kernels="native"
    )
    with pytest.raises(CheckpointError, match=r"holds 99840, but float16.*--backbone-bits 32"):
        build(options)


@pytest.mark.parametrize("family", ["gemma2", "gemma3"])
def test_families_that_overflow_float16_refuse_it_unless_asked(family: str, tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model", TINY_MODELS[family])
    model, backend = str(tmp_path / "model"), "tensorrt-llm-checkpoint"

    def convert(name: str, **options: object) -> None:
        out = tmp_path / name
        build(BuildOptions(model, out, backend=backend, quantiser="rtn", **options))  # type: ignore[arg-type]

    with pytest.raises(RiverError, match=rf"{family} overflow float16; use --dtype bfloat16"):
        convert("a")
    with pytest.raises(RiverError, match=rf"{family} overflow float16; use --dtype bfloat16"):
        build(BuildOptions(model, tmp_path / "b", recipe="a100"))
    convert("c", dtype="bfloat16")
    convert("d", dtype="float16")
