"""An AOTInductor package over the plugin's operators, and its decode step as a recorded graph.

usage: check_aoti.py WHAT LIBRARY DEVICE. `plain` compiles one linear of torch's own and loads the
package: whether any package loads there. `operators` compiles a small River stack, then compares
the package and its replays with the operators called one by one. Needs torch alone. DEVICE cpu
takes the library over the kernels' shim, and a replay is then a run.
"""

import runpy
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.gpu.decode_bench import host_record, load_record
from tests.gpu.decode_stack import NORM_EPS, Shape, Stack

# By its path: the package beside it imports what this machine may not have.
FAKES = Path(__file__).parents[2] / "river_trt/backends/torch/fakes.py"
register_fakes = runpy.run_path(str(FAKES))["register_fakes"]
SHAPE = Shape("small", 3, 256, 4, 2, 64, 512, 128)
BATCH, CAPACITY, PAST = 2, 32, 5
INF = float("inf")
TOLERANCE = 2e-2  # of bfloat16 logits: Inductor rounds the last norm at other places


class PackagedStack(Stack):
    """The stack over the operators of an aotinductor engine: those that Inductor takes."""

    def __init__(self, *args: Any) -> None:
        self.dialect: list[tuple[Tensor, Tensor, Tensor]] = []  # of all linears
        super().__init__(*args)
        self.attention_workspace = None  # a package cannot change its constants

    def river_step(
        self, ids: Tensor, past: Tensor, tau: Tensor, exited: Tensor, caches: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        h = torch.nn.functional.embedding(ids, self.embedding)
        exit_layer = torch.full_like(ids, self.shape.num_layers, dtype=torch.int32)
        for index, layer in enumerate(self.layers):
            h_in = h
            qkv = self._fused(index, "qkv", h, exited, layer.input_norm)
            attended = self._attend(qkv, index, past, caches)
            h = self._fused(index, "o", attended, exited, residual=h)
            active = self._fused(index, "gate_up", h, exited, layer.post_norm, True)
            h = self._fused(index, "down", active, exited, residual=h)
            exited, exit_layer = torch.ops.river_trt_cuda.gate(
                *(h_in, h, self.direction, self.no, exited, exit_layer),
                *(tau[index], self.token_scope, index + 1),
            )
        return self._logits(h), exit_layer

    def _fused(
        self,
        index: int,
        name: str,
        x: Tensor,
        exited: Tensor,
        norm: Tensor | None = None,
        silu_mul: bool = False,
        residual: Tensor | None = None,
    ) -> Tensor:
        names = list(self.shape.linears)
        river = self.dialect[len(names) * index + names.index(name)]
        y: Tensor = torch.ops.river_trt_cuda.fused_linear(
            *(x, exited, self.layers[index].weight[name], *river, None, None),
            *(norm, NORM_EPS, silu_mul, residual),
        )
        return y

    def _river(self, n: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
        self.dialect.append(super()._river(n, k))
        return self.dialect[-1]


class RiverStep(torch.nn.Module):
    """A step with everything that changes as an input."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack

    def forward(
        self, ids: Tensor, past: Tensor, tau: Tensor, exited: Tensor, caches: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        return self.stack.river_step(ids, past, tau, exited, caches)


def main(what: str, library: str, device: str) -> int:
    return {"plain": check_plain, "operators": check_operators}[what](library, device)


def check_plain(library: str, device: str) -> int:
    """A package of one linear; our library is not loaded."""
    model = torch.nn.Linear(64, 32, dtype=torch.bfloat16, device=device).eval()
    x = torch.randn(4, 64, dtype=torch.bfloat16, device=device)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        package = str(Path(folder) / "plain.pt2")
        program = torch.export.export(model, (x,))
        torch._inductor.aoti_compile_and_package(program, package_path=package)
        print(f"compiled for {device}; loading", flush=True)
        loader = torch._C._aoti.AOTIModelPackageLoader(package, "model", True, 1, -1)
        print("loaded; running", flush=True)
        (got,) = loader.boxed_run([x])
        problems = compare("the linear", got, model(x))
    print(f"{len(problems)} problems on {device}")
    return int(bool(problems))


def check_operators(library: str, device: str) -> int:
    torch.ops.load_library(library)
    register_fakes("cuda")
    problems: list[str] = []
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        stack = PackagedStack(SHAPE, BATCH, CAPACITY, device)
        ids = torch.randint(SHAPE.vocab_size, (BATCH, 1), device=device)
        past = torch.full((BATCH,), PAST, dtype=torch.int32, device=device)
        tau = torch.full((SHAPE.num_layers,), INF, device=device)
        exited = torch.zeros(BATCH, 1, dtype=torch.bool, device=device)
        inputs = (ids, past, tau, exited, stack.caches)
        program = torch.export.export(RiverStep(stack), inputs)
        package = str(Path(folder) / "stack.pt2")
        torch._inductor.aoti_compile_and_package(program, package_path=package)
        print(f"compiled for {device}: {Path(package).stat().st_size} bytes; loading", flush=True)
        loader = torch._C._aoti.AOTIModelPackageLoader(package, "model", True, 1, -1)
        print("loaded", flush=True)
        caches = [cache.clone() for cache in stack.caches]
        record = load_record() if device == "cuda" else host_record
        recording = record(lambda: loader.boxed_run([ids, past, tau, exited, *caches]))
        for depth in (*range(1, SHAPE.num_layers + 1), 1):
            tau.fill_(INF)
            tau[depth - 1] = -INF
            recording.replay()
            logits, exit_layer = recording.outputs
            expected, expected_exit_layer = stack.river_step(*inputs)
            problems += compare(f"depth {depth}", logits, expected)
            if not (torch.equal(exit_layer, expected_exit_layer) and (exit_layer == depth).all()):
                problems.append(f"depth {depth}: rows left after {exit_layer.flatten().tolist()}")
            for number, (cache, reference) in enumerate(zip(caches, stack.caches, strict=True)):
                problems += compare(f"depth {depth}, cache {number}", cache, reference)
    for problem in problems:
        print(f"problem: {problem}")
    print(f"{len(problems)} problems on {device}")
    return int(bool(problems))


def compare(what: str, got: Tensor, expected: Tensor) -> Sequence[str]:
    error = ((got.float() - expected.float()).norm() / expected.float().norm()).item()
    return [] if error < TOLERANCE else [f"{what} is off by {error:.1e}"]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
