"""The native CPU kernels as torch operators: mixed rows, both roundings, and what they refuse."""

import numpy as np
import pytest
import torch

from builders.dialect import dequantise
from river_trt.backends.torch.operators import load_operators
from river_trt.weight_panels import panel_rows, quantised_panels

N, K, GROUP = 40, 72, 32  # neither fills its panels nor its last group
GROUPS = -(-K // GROUP)


@pytest.fixture(scope="module", autouse=True)
def operators():
    load_operators("cpu")


def make_linear():
    """Arguments of the operator, and both banks as float32 [N, K]."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(16, (N, GROUPS, GROUP), dtype=torch.uint8, generator=generator)
    scales = torch.rand(N, GROUPS, generator=generator) * 0.1 + 0.01
    zeros = torch.randint(16, (N, GROUPS), dtype=torch.uint8, generator=generator)
    weight = torch.randn(N, K, generator=generator)
    parts = quantised_panels(codes.numpy(), scales.numpy(), zeros.numpy(), 4)
    qweight, panel_scales, panel_zeros = (
        torch.from_numpy(np.ascontiguousarray(parts[f"{name}_panels"]))
        for name in ("qweight", "scales", "zero_points")
    )
    panels = torch.from_numpy(np.ascontiguousarray(panel_rows(weight.numpy())))
    packed = codes[..., ::2] | (codes[..., 1::2] << 4)
    river = dequantise(packed, scales, zeros, K)
    return [panels, qweight, panel_scales, panel_zeros, None, None, N], weight, river


@pytest.mark.parametrize(("rounds", "tolerance"), [(False, 1e-5), (True, 1e-2)])
@pytest.mark.parametrize("rows", [1, 2, 9, 40])
def test_each_row_reads_the_bank_of_its_flag(rows, rounds, tolerance):
    args, weight, river = make_linear()
    x = torch.randn(1, rows, K)
    use_river = torch.arange(rows)[None] % 3 == 1
    y = torch.ops.river_trt_cpu.linear(x, use_river, *args, rounds)
    expected = torch.where(use_river[..., None], x @ river.T, x @ weight.T)
    assert (y - expected).norm() < tolerance * expected.norm()
    exact = ~use_river
    torch.testing.assert_close(y[exact], expected[exact], rtol=1e-4, atol=1e-4)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    args, _, _ = make_linear()
    x, use_river = torch.randn(1, 7, K), torch.arange(7)[None] % 2 == 0
    together = torch.ops.river_trt_cpu.linear(x, use_river, *args, True)
    for row in range(7):
        part = slice(row, row + 1)
        alone = torch.ops.river_trt_cpu.linear(x[:, part], use_river[:, part], *args, True)
        assert torch.equal(alone, together[:, part])


LINEAR_REFUSED = {
    "no bank": ({0: None, 1: None}, "neither bank is given"),
    "one bank and flags": ({0: None}, "use_river chooses between two banks"),
    "wrong panels": ({6: 99}, r"weight is \[3, 72, 16\], but must be \[7, 72, 16\]"),
    "half weights": ({0: torch.zeros(3, 72, 16).half()}, "weight is Half, but must be Float"),
}


@pytest.mark.parametrize("name", LINEAR_REFUSED)
def test_linear_refuses(name):
    args, _, _ = make_linear()
    changes, message = LINEAR_REFUSED[name]
    for place, value in changes.items():
        args[place] = value
    flags = torch.zeros(1, 2, dtype=torch.bool)
    with pytest.raises(RuntimeError, match=message):
        torch.ops.river_trt_cpu.linear(torch.zeros(1, 2, K), flags, *args, False)


def test_attention_never_writes_past_the_cache():
    q, caches = torch.zeros(1, 3, 32), [torch.zeros(1, 2, 4, 16) for _ in range(2)]
    past = torch.tensor([2], dtype=torch.int32)
    with pytest.raises(RuntimeError, match="3 tokens after 2 do not fit 4 positions"):
        torch.ops.river_trt_cpu.attention(q, q, q, *caches, past, None, None, 2, 2, 1.0, 0, 0.0)


def attention_arguments():
    """Four heads of 16 over two of keys and values, eight slots."""
    caches = [torch.zeros(1, 2, 8, 16) for _ in range(2)]
    kv = [torch.zeros(1, 3, 32) for _ in range(2)]
    tables = [torch.zeros(8, 8) for _ in range(2)]
    past = torch.tensor([2], dtype=torch.int32)
    return [torch.zeros(1, 3, 64), *kv, *caches, past, *tables, 4, 2, 1.0, 0, 0.0]


ATTENTION_REFUSED = {
    "no heads of keys": ({9: 0}, "4 heads cannot share 0"),
    "heads that do not divide": ({9: 3}, "4 heads cannot share 3"),
    "heads whose size wraps to zero": ({0: torch.zeros(1, 3, 0), 8: 2**60}, "heads cannot share"),
    "negative heads": ({8: -4}, "-4 heads cannot share"),
    "no values in a head": ({3: torch.zeros(1, 2, 8, 0)}, "head_dim of 0"),
    "narrow values": ({4: torch.zeros(1, 2, 8, 8)}, "v_cache is"),
    "few slots of values": ({4: torch.zeros(1, 2, 4, 16)}, "v_cache is"),
    "wide tables": ({6: torch.zeros(8, 9), 7: torch.zeros(8, 9)}, "turn 18 values"),
    "table of one dimension": ({6: torch.zeros(8), 7: torch.zeros(8)}, "rotary_cos is"),
    "short tables": ({6: torch.zeros(4, 8), 7: torch.zeros(4, 8)}, "do not fit 4 positions"),
    "negative window": ({11: -1}, "window of -1"),
    "negative length": ({5: torch.tensor([-1], dtype=torch.int32)}, "after -1"),
}


@pytest.mark.parametrize("name", ATTENTION_REFUSED)
def test_attention_refuses(name):
    arguments = attention_arguments()
    torch.ops.river_trt_cpu.attention(*arguments)
    changes, message = ATTENTION_REFUSED[name]
    for place, value in changes.items():
        arguments[place] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.river_trt_cpu.attention(*arguments)


def test_attention_of_no_rows():
    arguments = attention_arguments()
    for place in (0, 1, 2, 3, 4, 5):
        arguments[place] = arguments[place][:0]
    assert torch.ops.river_trt_cpu.attention(*arguments).shape == (0, 3, 64)


def gate_arguments():
    flags = torch.zeros(1, 2, dtype=torch.bool)
    exits = torch.zeros(1, 2, dtype=torch.int32)
    scalars = [torch.tensor(0.5), torch.tensor(0, dtype=torch.int32)]
    rows = [torch.ones(1, 2, 8), torch.ones(1, 2, 8)]
    return [*rows, torch.ones(8), torch.tensor(False), flags, exits, *scalars, 1]


GATE_REFUSED = {
    "no values": (dict.fromkeys((0, 1), torch.ones(1, 2, 0)) | {2: torch.ones(0)}, "no values"),
    "wild scope": ({7: torch.tensor(3, dtype=torch.int32)}, "scope is 3"),
    "empty tau": ({6: torch.ones(0)}, "tau is"),
    "narrow exit_layer": ({5: torch.zeros(1, 1, dtype=torch.int32)}, "exit_layer is"),
}


@pytest.mark.parametrize("name", GATE_REFUSED)
def test_gate_refuses(name):
    arguments = gate_arguments()
    torch.ops.river_trt_cpu.gate(*arguments)
    changes, message = GATE_REFUSED[name]
    for place, value in changes.items():
        arguments[place] = value
    with pytest.raises(RuntimeError, match=message):
        torch.ops.river_trt_cpu.gate(*arguments)


@pytest.mark.parametrize(("inputs", "outputs"), [(0, N), (K, 0), (K, -16), (K, 2**62)])
def test_linear_refuses_sizes_without_values(inputs, outputs):
    weight = torch.zeros(max(0, -(-outputs // 16)) if outputs < 2**40 else 0, inputs, 16)
    with pytest.raises(RuntimeError, match="both must have values"):
        torch.ops.river_trt_cpu.linear(
            torch.zeros(1, 2, inputs), None, weight, *[None] * 5, outputs, False
        )
