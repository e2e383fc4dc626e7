"""Decode speed of the River stack by depth, beside the same stack without it, on one device.

usage: decode_bench.py LIBRARY DEVICE --out DIR [--seconds S]. Writes DIR/decode.json and decode.md.
Needs torch and a library of plugins/torch. DEVICE cpu takes the library over the kernels' shim and
tiny shapes: it shows that all of this runs, and measures nothing of worth.
"""

import argparse
import gc
import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.gpu.decode_peers import bf16_model, int4_model
from tests.gpu.decode_stack import Shape, Stack
from tests.gpu.decode_table import decode_table

ROOT = Path(__file__).parents[2]
INF = float("inf")
GPU_SHAPES = (
    Shape("Llama-3.2-1B", 16, 2048, 32, 8, 64, 8192, 128256),
    Shape("Llama-3.1-8B", 32, 4096, 32, 8, 128, 14336, 128256),
    Shape("Llama-3.1-70B", 16, 8192, 64, 8, 128, 28672, 128256, full_layers=80),
)
SLACK = 64  # slots behind the tokens of a cache
REPLAYS = 10  # timed together
# Relative error of logits against plain torch's: random weights amplify roundings of sums in
# another order, layer by layer; a wrong operand gives an error of about 1.
AMPLIFIED = 1e-1
SPARE_BYTES = 4 << 30  # of the device's memory, for what is not counted
Run = Callable[[], Sequence[Tensor]]


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    shapes: tuple[Shape, ...]
    batches: tuple[int, ...]
    context: int  # tokens in the cache of every row
    rounds: int
    halvings: int  # in search of a tau


PLANS = {
    "cuda": Plan(GPU_SHAPES, (1, 4), 512, 5, 12),
    "cpu": Plan((Shape("tiny", 3, 128, 2, 1, 64, 128, 64),), (2,), 8, 1, 4),
}


@dataclass(frozen=True)
class Arm:
    """One way to run a step: its replay, its outputs, what it must read."""

    name: str
    replay: Callable[[], None]
    backbone_layers: float | None
    num_bytes: float
    keeps: object = None  # what a recording reads and nobody else holds


@dataclass(frozen=True)
class Record:
    model: str
    num_layers: int
    full_layers: int
    batch: int
    arm: str
    backbone_layers: float | None
    ms: float  # median
    ms_low: float
    ms_high: float
    num_bytes: float


def load_record() -> Callable[[Run], Any]:
    """The runtime's own recorder, from its file: river_trt itself needs more than torch."""
    path = ROOT / "river_trt" / "backends" / "torch" / "graphs.py"
    spec = importlib.util.spec_from_file_location("river_graphs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.record


@dataclass(frozen=True)
class HostRecording:
    """What stands in for a CUDA graph on the CPU: every replay runs the step."""

    replay: Callable[[], None]
    outputs: list[Tensor]


def host_record(run: Run) -> HostRecording:
    outputs = list(run())

    def replay() -> None:
        for kept, new in zip(outputs, run(), strict=True):
            kept.copy_(new)

    return HostRecording(replay, outputs)


class Bench:
    """All arms of one stack and batch."""

    def __init__(
        self, stack: Stack, batch: int, plan: Plan, record: Callable[[Run], Any], gpu: bool
    ) -> None:
        device = stack.device_name
        self.stack, self.batch, self.plan = stack, batch, plan
        self.record, self.gpu = record, gpu
        self.ids = torch.randint(stack.shape.vocab_size, (batch, 1), device=device)
        self.past = torch.full((batch,), plan.context, dtype=torch.int32, device=device)
        self.tau = torch.full((stack.shape.num_layers,), INF, device=device)
        self.exited = torch.zeros(batch, 1, dtype=torch.bool, device=device)
        self.problems: list[str] = []

    def bytes_of(self, backbone: float, river: float) -> float:
        shape = self.stack.shape
        weights = backbone * shape.backbone_bytes() + river * shape.river_bytes()
        return weights + shape.head_bytes() + self.batch * shape.cache_bytes(self.plan.context)

    def river_arms(self) -> Iterator[Arm]:
        """One recording for every depth: only what tau and exited hold on the device differs."""
        stack, layers = self.stack, self.stack.shape.num_layers
        recording = self.record(
            lambda: stack.river_step(self.ids, self.past, self.tau, self.exited, stack.caches)
        )

        def arm(name: str, tau: Sequence[float], exited: bool) -> Arm:
            tau_values = torch.tensor(tau, device=self.tau.device)
            exited_values = torch.full_like(self.exited, exited)

            def replay() -> None:
                self.tau.copy_(tau_values)
                self.exited.copy_(exited_values)

            replay()
            recording.replay()
            left = torch.zeros(1) if exited else recording.outputs[1].double()
            # A layer's bank is read once for all the rows that use it.
            num_bytes = self.bytes_of(int(left.max()), layers - int(left.min()))
            return Arm(name, Prepared(replay, recording.replay), left.mean().item(), num_bytes)

        for depth in sorted({1, min(4, layers), layers // 2, layers}):
            tau = [INF] * layers
            tau[depth - 1] = -INF
            made = arm(f"River, depth {depth}", tau, exited=False)
            if made.backbone_layers != depth:
                self.problems.append(
                    f"forced to exit after {depth}, rows left after {made.backbone_layers}"
                )
            yield made
        yield arm("River, all W4", [INF] * layers, exited=True)
        yield arm("River, by its gate", self.gate_tau(recording), exited=False)
        # With flags that all name the backbone and without flags: the same sums in the same order.
        self.tau.fill_(INF)
        self.exited.fill_(False)
        recording.replay()
        by_flag = recording.outputs[0].clone()
        plain, _ = stack.river_step(
            *(self.ids, self.past, self.tau, self.exited, stack.caches), by_flag=False
        )
        if not torch.equal(by_flag, plain):
            differing = (by_flag != plain).sum().item()
            self.problems.append(
                f"full depth by flags differs from one bank in {differing} of {plain.numel()} "
                "logits"
            )

    def gate_tau(self, recording: Any) -> list[float]:
        """One tau that lets rows leave after a third of the layers: found by halving."""
        layers = self.stack.shape.num_layers
        self.exited.fill_(False)
        low, high = -1.0, 1.0
        for _ in range(self.plan.halvings):
            middle = (low + high) / 2
            self.tau.fill_(middle)
            recording.replay()
            if recording.outputs[1].double().mean().item() > layers / 3:
                high = middle
            else:
                low = middle
        return [low] * layers

    def plain_arms(self) -> Iterator[Arm]:
        stack, layers = self.stack, self.stack.shape.num_layers
        full, int4 = self.bytes_of(layers, 0), self.bytes_of(0, layers)
        own = self.record(lambda: stack.backbone_step(self.ids, self.past, stack.caches))
        yield Arm("full depth, our kernels", own.replay, layers, full)
        if self.batch != 1 and self.gpu:  # compiling takes most of the time there is
            return
        torch._dynamo.reset()
        compiler = partial(torch.compile, dynamic=False) if self.gpu else lambda function: function
        manner = "torch.compile" if self.gpu else "eager torch"
        peers = [(f"bf16, {manner}", bf16_model, full)]
        if self.gpu:
            peers.append((f"int4, {manner}", int4_model, int4))
        for name, make, num_bytes in peers:
            try:
                model = make(stack, compiler)
                recording = self.record(lambda model=model: model.step(self.ids, self.past))
            except Exception:  # a peer that does not run is a gap in the table, and said
                self.problems.append(f"{name} does not run: {traceback.format_exc()[-1500:]}")
                continue
            if make is bf16_model:
                own.replay()  # before a replay the outputs hold nothing
                recording.replay()
                self.compare(own.outputs[0], recording.outputs[0])
            yield Arm(name, recording.replay, None, num_bytes, keeps=model)

    def compare(self, ours: Tensor, theirs: Tensor) -> None:
        """The stack computes what plain torch computes from the same weights."""
        error = ((ours.float() - theirs.float()).norm() / theirs.float().norm()).item()
        if not error < AMPLIFIED:
            self.problems.append(f"logits are off by {error:.1e} from plain torch's")

    def measure(self, deadline: float) -> list[Record]:
        shape = self.stack.shape
        arms = [*self.plain_arms(), *self.river_arms()]
        times: dict[str, list[float]] = {arm.name: [] for arm in arms}
        for number in range(self.plan.rounds):
            for arm in reversed(arms) if number % 2 else arms:
                times[arm.name].append(self.time(arm.replay))
            if time.monotonic() > deadline:
                break
        return [
            Record(
                *(shape.name, shape.num_layers, shape.full_layers or shape.num_layers),
                *(self.batch, arm.name, arm.backbone_layers),
                *(median(times[arm.name]), min(times[arm.name]), max(times[arm.name])),
                arm.num_bytes,
            )
            for arm in arms
        ]

    def time(self, replay: Callable[[], None]) -> float:
        """Milliseconds of a replay."""
        if isinstance(replay, Prepared):
            replay.prepare()
            replay = replay.run
        replay()
        if not self.gpu:
            start = time.perf_counter()
            replay()
            return 1000 * (time.perf_counter() - start)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(REPLAYS):
            replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / REPLAYS


@dataclass(frozen=True)
class Prepared:
    """A replay after its inputs are set; setting them is not timed."""

    prepare: Callable[[], None]
    run: Callable[[], None]

    def __call__(self) -> None:
        self.prepare()
        self.run()


def copy_bandwidth(gpu: bool) -> float:
    """GB/s that a large copy on the device reads and writes."""
    count = (1 << 30) if gpu else (1 << 24)
    source = torch.empty(count, dtype=torch.uint8, device="cuda" if gpu else "cpu")
    target = torch.empty_like(source)
    target.copy_(source)
    if not gpu:
        start = time.perf_counter()
        target.copy_(source)
        return 2 * count / (time.perf_counter() - start) / 1e9
    times = []
    for _ in range(8):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return 2 * count / median(times) / 1e6


def needed_bytes(shape: Shape, plan: Plan) -> int:
    """Of weights, torch's int4 copies and caches."""
    layers = shape.num_layers * (shape.backbone_bytes() + 2 * shape.river_bytes())
    caches = max(plan.batches) * shape.cache_bytes(plan.context + SLACK)
    return layers + 2 * shape.head_bytes() + caches


def tune(stack: Stack, batch: int) -> list[str]:
    """Prints the chosen variants; a problem here leaves the default ones and the figures."""
    try:
        print(f"{stack.shape.name}, batch {batch}: {stack.tune(batch)}", flush=True)
    except Exception:
        stack.variants = dict.fromkeys(stack.variants, -1)
        return [f"{stack.shape.name}: tuning: {traceback.format_exc()[-800:]}"]
    return []


def measure_all(
    device: str, seconds: float, plan: Plan
) -> tuple[list[Record], list[str], list[str]]:
    """Records, problems, and what was left out and why."""
    gpu = device == "cuda"
    deadline = time.monotonic() + seconds
    record = load_record() if gpu else host_record
    records: list[Record] = []
    problems: list[str] = []
    left_out: list[str] = []
    for shape in plan.shapes:
        if gpu and needed_bytes(shape, plan) + SPARE_BYTES > torch.cuda.mem_get_info()[0]:
            left_out.append(f"{shape.name}: the device has too little memory")
            continue
        for batch in plan.batches:
            if time.monotonic() > deadline:
                left_out.append(f"{shape.name}, batch {batch}: no time left")
                continue
            try:
                stack = Stack(shape, batch, plan.context + SLACK, device)
                if gpu:
                    problems += tune(stack, batch)
                bench = Bench(stack, batch, plan, record, gpu)
                with torch.inference_mode():
                    records += bench.measure(deadline)
                problems += [f"{shape.name}, batch {batch}: {text}" for text in bench.problems]
            except Exception:  # a problem of one shape must not lose the others' figures
                problems.append(f"{shape.name}, batch {batch}: {traceback.format_exc()[-1500:]}")
            stack = bench = None
            gc.collect()
            if gpu:
                torch.cuda.empty_cache()
    return records, problems, left_out


def read_before(file: Path) -> dict[str, Any]:
    """What other processes measured for the same report."""
    if not file.exists():
        return {"records": [], "problems": [], "left_out": []}
    before: dict[str, Any] = json.loads(file.read_text())
    return before


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="decode speed of the River stack")
    parser.add_argument("library", type=Path)
    parser.add_argument("device", choices=("cuda", "cpu"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=150.0, help="no new part starts after")
    parser.add_argument("--model", help="one of the shapes; default: all")
    parser.add_argument("--batch", type=int, help="one batch size; default: all")
    args = parser.parse_args(argv)
    torch.ops.load_library(str(args.library))
    gpu = args.device == "cuda"
    plan = PLANS[args.device]
    if args.model is not None:
        plan = replace(plan, shapes=tuple(s for s in plan.shapes if s.name == args.model))
    if args.batch is not None:
        plan = replace(plan, batches=(args.batch,))
    bandwidth = copy_bandwidth(gpu)
    records, problems, left_out = measure_all(args.device, args.seconds, plan)
    args.out.mkdir(parents=True, exist_ok=True)
    before = read_before(args.out / "decode.json")
    report = {
        "device": torch.cuda.get_device_name() if gpu else "cpu",
        "torch": torch.__version__,
        "context": PLANS[args.device].context,
        "copy_gb_per_s": bandwidth,
        "records": before["records"] + [asdict(record) for record in records],
        "problems": before["problems"] + problems,
        "left_out": before["left_out"] + left_out,
    }
    (args.out / "decode.json").write_text(json.dumps(report, indent=1) + "\n")
    table = decode_table(report)
    (args.out / "decode.md").write_text(table)
    print(table)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
