"""The torch operators of a built library against the dialect's reference.

usage: check_operators.py LIBRARY DEVICE. The library is loaded after the references are computed,
so DEVICE can be cpu too: with the library built over the kernels' CPU shim. Needs torch alone.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from builders import dialect

TOLERANCES = {
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
}  # relative L2, the project's for the kernels


@dataclass
class Case:
    name: str
    operator: Callable[..., Tensor | tuple[Tensor, ...]]
    args: list[Tensor | int | float | None]
    tolerance: float
    of_library: Callable[..., Tensor] | None = None  # where not `operator` is compared with itself

    def reference(self) -> tuple[Tensor, ...]:
        """By the CPU implementation in float32; activations only: packed and float32 stay."""
        half = (torch.float16, torch.bfloat16)
        args = [x.float() if isinstance(x, Tensor) and x.dtype in half else x for x in self.args]
        return as_tuple(self.operator(*args))

    def actual(self, device: str) -> tuple[Tensor, ...]:
        args = [x.to(device) if isinstance(x, Tensor) else x for x in self.args]
        operator = self.of_library or self.operator
        return tuple(x.cpu() for x in as_tuple(operator(*args)))


def as_tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def linear_case(dtype: torch.dtype, batch: int, seq: int, n: int, k: int, group: int) -> Case:
    groups = -(-k // group)
    args = [
        torch.randn(batch, seq, k).to(dtype),
        torch.rand(batch, seq) < 0.5,
        (torch.randn(n, k) * 0.05).to(dtype),
        torch.randint(256, (n, groups, group // 2), dtype=torch.uint8),
        (torch.rand(n, groups) * 0.01 + 0.001).half(),
        torch.randint(16, (n, groups), dtype=torch.uint8),
        (torch.rand(k) + 0.5).half(),
        torch.randn(n).to(dtype),
    ]
    name = f"linear {dtype} [{batch}, {seq}, {k}] -> {n}, groups of {group}"
    return Case(name, torch.ops.river_trt.linear, args, TOLERANCES[dtype])


def bare_linear_case(dtype: torch.dtype) -> Case:
    case = linear_case(dtype, 2, 1, 40, 64, 32)
    case.args[5:] = [None, None, None]
    case.name += ", symmetric, no pre_scale, no bias"
    return case


def packed_linear_case(
    dtype: torch.dtype, batch: int, seq: int, n: int, k: int, group: int, int8: bool
) -> Case:
    """The dialect's linear over a bank that the library packs; 8 bits cost under a hundredth."""
    case = linear_case(dtype, batch, seq, n, k, group)
    case.name += ", packed" + (", int8 activations" if int8 else "")
    case.tolerance = 1.2e-2 if int8 else case.tolerance

    def run(
        x: Tensor,
        use_river: Tensor,
        weight: Tensor,
        qweight: Tensor,
        scales: Tensor,
        zero_points: Tensor,
        pre_scale: Tensor,
        bias: Tensor,
    ) -> Tensor:
        ops = torch.ops.river_trt_cuda
        bank = ops.pack(qweight, scales, zero_points, k)
        y: Tensor = ops.packed_linear(
            *(x, use_river, weight, bank, n, group, pre_scale, bias, None, 0.0, False, None),
            *(int8, False, None, None, -1),
        )
        return y

    case.of_library = run
    return case


def gate_case(dtype: torch.dtype, batch: int, seq: int, scope: int, use_direction: bool) -> Case:
    h_in = torch.randn(batch, seq, 64)
    args = [
        h_in.to(dtype),
        (h_in + torch.randn(batch, seq, 64)).to(dtype),
        torch.randn(64),
        torch.tensor(use_direction),
        torch.rand(batch, seq) < 0.3,
        torch.full((batch, seq), 9, dtype=torch.int32),
        torch.tensor(0.0 if use_direction else 0.7),
        torch.tensor(scope, dtype=torch.int32),
        4,
    ]
    name = f"gate {dtype} [{batch}, {seq}], scope {scope}, direction {use_direction}"
    return Case(name, torch.ops.river_trt.gate, args, 0.0)


def attention_case(
    dtype: torch.dtype,
    batch: int,
    seq: int,
    past: int,
    packed: bool,
    rotated: bool = True,
    window: int = 0,
    softcap: float = 0.0,
) -> Case:
    heads, kv_heads, d, capacity = 6, 2, 16, 64
    sizes = [heads * d, kv_heads * d, kv_heads * d]
    qkv = torch.randn(batch, seq, sum(sizes)).to(dtype)
    q, k, v = qkv.split(sizes, dim=-1)
    angles = torch.randn(capacity, d // 2)
    args = [
        *((q, k, v) if packed else (q.contiguous(), k.contiguous(), v.contiguous())),
        *(torch.randn(batch, kv_heads, capacity, d).to(dtype) for _ in range(2)),
        torch.arange(past, past + 3 * batch, 3, dtype=torch.int32),
        *((angles.cos(), angles.sin()) if rotated else (None, None)),
        *(heads, kv_heads, d**-0.5, window, softcap),
    ]
    name = f"attention {dtype} [{batch}, {seq}] past {past}" + (", views of qkv" if packed else "")
    name += "" if rotated else ", not rotated"
    name += f", window {window}, soft cap {softcap:g}" if window or softcap else ""
    return Case(name, torch.ops.river_trt.attention, args, TOLERANCES[dtype])


def cases() -> Iterator[Case]:
    for dtype in TOLERANCES:
        for batch, seq in ((1, 1), (4, 1), (2, 7)):
            yield linear_case(dtype, batch, seq, 48, 72, 32)
        yield linear_case(dtype, 1, 2, 96, 576, 64)
        yield bare_linear_case(dtype)
        for group, int8 in ((64, False), (64, True), (128, False), (128, True)):
            for batch, seq in ((1, 1), (5, 1), (2, 7)):
                yield packed_linear_case(dtype, batch, seq, 96, 576, group, int8)
        for scope in range(3):
            yield gate_case(dtype, 3, 4, scope, use_direction=scope == 1)
        for batch, seq, past in ((1, 1, 0), (3, 1, 20), (2, 5, 11)):
            for packed in (True, False):
                yield attention_case(dtype, batch, seq, past, packed)
        yield attention_case(dtype, 2, 5, 11, True, rotated=False)
        yield attention_case(dtype, 2, 5, 11, True, window=6, softcap=2.0)


def compare(case: Case, expected: tuple[Tensor, ...], actual: tuple[Tensor, ...]) -> str | None:
    """What is wrong, or None. Flags and layers must be equal, numbers within the tolerance."""
    if len(actual) != len(expected):
        return f"{len(actual)} results, {len(expected)} expected"
    for i, (got, want) in enumerate(zip(actual, expected, strict=True)):
        if got.shape != want.shape:
            return f"result {i} is {tuple(got.shape)}, {tuple(want.shape)} expected"
        if not want.is_floating_point():
            if got.dtype != want.dtype or not torch.equal(got, want):
                return f"result {i} differs: {got.tolist()}, {want.tolist()} expected"
            continue
        error = ((got.double() - want.double()).norm() / want.double().norm()).item()
        if not error <= case.tolerance:
            return f"result {i} is off by {error:.2e}, {case.tolerance:.0e} allowed"
    return None


# (operator, argument, replacement, what the message must hold)
REFUSED: tuple[tuple[str, int, Callable[[Tensor], Tensor], str], ...] = (
    ("linear", 0, Tensor.float, "activations are Float; the kernels take float16 and bfloat16"),
    ("linear", 4, Tensor.float, "scales is Float, but must be Half"),
    ("linear", 2, lambda x: x[:, :-8], "weight is [40, 56], but must be [40, 64]"),
    ("linear", 3, lambda x: x[:, :, :-1], "qweight is [40, 2, 15]"),
    ("linear", 1, lambda x: x[:1], "use_river is [1, 1], but must be [2, 1]"),
    ("gate", 6, lambda x: x[None], "tau is [1], but must be []"),
    ("gate", 5, Tensor.long, "exit_layer is Long, but must be Int"),
    ("attention", 5, Tensor.long, "past_lengths is Long, but must be Int"),
    ("attention", 4, lambda x: x[:, :1], "v_cache is [2, 1, 64, 16], but must be [2, 2, 64, 16]"),
    ("attention", 6, Tensor.half, "rotary_cos is Half, but must be Float"),
)


def check_refused(device: str) -> list[str]:
    """Bad arguments raise an error that names the argument, its value and the rule."""
    valid = {
        "linear": bare_linear_case(torch.float16),
        "gate": gate_case(torch.float16, 2, 1, 0, False),
        "attention": attention_case(torch.float16, 2, 1, 3, False),
    }
    problems = []
    for operator, position, change, text in REFUSED:
        case = valid[operator]
        args = [x.to(device) if isinstance(x, Tensor) else x for x in case.args]
        argument = args[position]
        assert isinstance(argument, Tensor)
        args[position] = change(argument)
        try:
            case.operator(*args)
            problems.append(f"{operator} took a bad argument {position}")
        except RuntimeError as error:
            if text not in str(error):
                problems.append(f"{operator}: {str(error).splitlines()[0]!r} lacks {text!r}")
    return problems


def check_cache_rows(device: str) -> list[str]:
    """Sequences in any rows of larger caches: as in caches of their own; no other row changes."""
    case = attention_case(torch.float16, 3, 2, 5, True)
    args = [x.to(device) if isinstance(x, Tensor) else x for x in case.args]
    q, k, v, k_cache, v_cache, past, *rest = args
    rows = torch.tensor([4, 0, 2], dtype=torch.int32, device=device)
    whole = [torch.randn(6, *cache.shape[1:]).half().to(device) for cache in (k_cache, v_cache)]
    before = [cache.clone() for cache in whole]
    for cache, own in zip(whole, (k_cache, v_cache), strict=True):
        cache[rows.long()] = own
    expected = torch.ops.river_trt_cuda.attention(q, k, v, k_cache, v_cache, past, *rest)
    # Two more sequences only fill up: both are at the start of row 5.
    padded = [torch.cat([x, x[:2]]) for x in (q, k, v)]
    lengths = torch.cat([past, torch.zeros_like(past[:2])])
    filled = torch.cat([rows, torch.full_like(rows[:2], 5)])
    out = torch.ops.river_trt_cuda.attention(*padded, *whole, lengths, *rest, None, filled)
    problems = []
    if not torch.equal(out[:3], expected):
        problems.append("attention with cache_rows gives something else")
    for cache, own, old in zip(whole, (k_cache, v_cache), before, strict=True):
        if not torch.equal(cache[rows.long()], own) or not torch.equal(cache[[1, 3]], old[[1, 3]]):
            problems.append("attention with cache_rows changes the wrong rows")
    return problems


def check_step_gate(device: str) -> list[str]:
    """The gate of a recorded step is the gate, and says who uses the river next."""
    problems = []
    for scope in range(3):
        case = gate_case(torch.bfloat16, 3, 4, scope, False)
        args = [x.to(device) if isinstance(x, Tensor) else x for x in case.args]
        exited, exit_layer = torch.ops.river_trt_cuda.gate(*args)
        workspace = torch.zeros(1024, dtype=torch.uint8, device=device)
        for pinned in (False, True):
            pin = torch.tensor(pinned, device=device)
            squares = torch.empty(3, 4, device=device)
            got = torch.ops.river_trt_cuda.step_gate(*args[:7], pin, *args[7:], squares, workspace)
            h_out = args[1]
            assert isinstance(h_out, Tensor)
            if not torch.allclose(squares, h_out.float().square().sum(-1)):
                problems.append(f"step_gate: the sum of squares is off, scope {scope}")
            wanted = (exited, exit_layer, exited & ~pin)
            if not all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True)):
                problems.append(f"step_gate differs, scope {scope}, pinned {pinned}")
        if workspace[:16].any():
            problems.append("step_gate leaves its counter")
    return problems


def check_plain(device: str) -> list[str]:
    """A packed_linear without its bank has the bits of one whose flags name the backbone.

    With and without sums of squares given, of both kinds of activations, and by every variant that
    was measured for the shape.
    """
    ops = torch.ops.river_trt_cuda
    n, k, group = 64, 1344, 64
    weight = (torch.randn(n, k) * 0.05).bfloat16().to(device)
    codes = torch.randint(256, (n, k // group, group // 2), dtype=torch.uint8).to(device)
    bank = ops.pack(codes, torch.full((n, k // group), 0.01).half().to(device), None, k)
    norm = torch.rand(k).bfloat16().to(device)
    problems = []
    for rows in (1, 2, 3, 8, 9):
        x = torch.randn(rows, 1, k).bfloat16().to(device)
        flags = torch.zeros(rows, 1, dtype=torch.bool, device=device)
        squares = x.float().square().sum(-1)
        for int8, given, variant in product((True, False), (None, squares), (0, 4, 8)):
            if rows <= 8:
                ops.set_linear_variant(n, k, group, rows, int8, variant)
            both = [
                ops.packed_linear(
                    *(x, use_river, weight, packed, n, group, None, None, norm, 1e-5, False, None),
                    *(int8, False, given, None, -1),
                )
                for use_river, packed in ((flags, bank), (None, None))
            ]
            if not torch.equal(*both):
                problems.append(f"plain packed_linear differs: {rows} rows, int8 {int8}, {variant}")
    return problems


def main(library: str, device: str) -> int:
    torch.manual_seed(0)
    assert dialect.NIBBLES_PER_BYTE == 2  # the import registered the operators
    work = [(case, case.reference()) for case in cases()]
    torch.ops.load_library(library)
    problems = check_refused(device) + check_cache_rows(device) + check_step_gate(device)
    problems += check_plain(device)
    for case, expected in work:
        problem = compare(case, expected, case.actual(device))
        if problem is not None:
            problems.append(f"{case.name}: {problem}")
    for problem in problems:
        print(problem)
    print(f"{len(work)} cases, {len(REFUSED)} refusals, {len(problems)} problems on {device}")
    return min(len(problems), 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
