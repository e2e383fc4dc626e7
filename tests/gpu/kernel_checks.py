"""Build the kernel test programs for a GPU and run them: correctness, graph, sanitizers, roofline.

usage: kernel_checks.py ACTION --out DIR. `build` first; the others add to DIR/kernels.json and
DIR/kernels.md. scripts/gpu_check.sh calls this. Needs nvcc, and torch for its baseline; nothing of
river-trt's Python.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from roofline_table import roofline_table

PLUGINS = Path(__file__).parents[2] / "plugins"
KERNELS = PLUGINS / "kernels"
TESTS = PLUGINS / "tests" / "kernels"
CORRECTNESS = ("gate", "attention", "linear", "linear_prefill", "decode")
PROGRAMS = {
    **{name: TESTS / f"test_{name}.cpp" for name in CORRECTNESS},
    "graph": TESTS / "gpu" / "test_graph.cu",
    "roofline": TESTS / "gpu" / "roofline.cu",
    "decode_variants": TESTS / "gpu" / "decode_variants.cu",
    "attention_variants": TESTS / "gpu" / "attention_variants.cu",
    "persistent": TESTS / "gpu" / "persistent.cu",
    "persistent_check": TESTS / "test_persistent.cpp",
}
ARCHITECTURES = ("80", "90")
SANITIZERS = ("memcheck", "racecheck")
ACTIONS = ("build", "correctness", "persistent", "roofline", *SANITIZERS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One program under one condition."""

    step: str
    ok: bool
    detail: str  # the tally of the program, or the end of what it printed


def find_program(name: str) -> str:
    """On the PATH or in /usr/local/cuda. Raises RuntimeError where it is in neither."""
    found = shutil.which(name) or shutil.which(f"/usr/local/cuda/bin/{name}")
    if found is None:
        raise RuntimeError(f"no {name} on this machine; install NVIDIA's CUDA toolkit")
    return found


def build(folder: Path, architectures: Sequence[str]) -> dict[str, Path]:
    """name -> program. Raises RuntimeError with the compiler's text."""
    nvcc = find_program("nvcc")
    flags = ["-std=c++20", "-O3", "-lineinfo", "-Xcompiler=-Wall,-Wextra,-Werror"]
    flags += ["-Werror=all-warnings", f"-I{KERNELS}", f"-I{TESTS}"]
    flags += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    library = sorted([*KERNELS.glob("*.cu"), *KERNELS.glob("*.cpp")])
    sources = [(source, folder / f"{source.name}.o") for source in library]
    objects = [made for _, made in sources]
    sources += [(source, folder / f"{name}.o") for name, source in PROGRAMS.items()]

    def compile_one(pair: tuple[Path, Path]) -> None:
        language = "c++" if pair[0].parent == KERNELS and pair[0].suffix == ".cpp" else "cu"
        run_compiler([nvcc, *flags, "-x", language, "-c", pair[0], "-o", pair[1]])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources))
    programs = {name: program_in(folder, name) for name in PROGRAMS}
    for name, program in programs.items():
        run_compiler([nvcc, folder / f"{name}.o", *objects, "-ldl", "-o", program])
    return programs


def program_in(folder: Path, name: str) -> Path:
    return folder / f"gpu_{name}"


def run_compiler(command: Sequence[object]) -> None:
    parts = [str(part) for part in command]
    done = subprocess.run(parts, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(parts)}\n{(done.stdout + done.stderr)[-4000:]}")


def run_step(step: str, command: Sequence[object], timeout: float) -> Outcome:
    parts = [str(part) for part in command]
    try:
        done = subprocess.run(parts, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return Outcome(step, False, f"ran longer than {timeout:.0f} s")
    lines = (done.stdout + done.stderr).strip().splitlines()
    kept = lines[-1:] if done.returncode == 0 else lines[-20:]
    return Outcome(step, done.returncode == 0, "\n".join(kept))


def check_correctness(folder: Path, grid: str) -> Iterator[Outcome]:
    """The programs of the CPU tests with real kernels, and the graph."""
    for name in CORRECTNESS:
        yield run_step(f"correctness {name}", [program_in(folder, name), 0, grid], 60)
    yield run_step("graph replays", [program_in(folder, "graph")], 30)


def check_persistent(folder: Path, out: Path, grid: str) -> Iterator[Outcome]:
    """The prototype: against double precision, then beside the launches that it would replace."""
    command = [program_in(folder, "persistent_check"), 0, grid]
    yield run_step("correctness persistent", command, 60)
    timed = run_step("persistent", [program_in(folder, "persistent"), out / "persistent.jsonl"], 60)
    lines = (out / "persistent.jsonl").read_text().splitlines() if timed.ok else []
    yield Outcome(timed.step, timed.ok, "\n".join([timed.detail, *lines]))


def check_sanitizer(tool: str, folder: Path) -> Iterator[Outcome]:
    """compute-sanitizer over the small grids."""
    try:
        sanitizer = find_program("compute-sanitizer")
    except RuntimeError as error:
        yield Outcome("compute-sanitizer", False, str(error))
        return
    command = [sanitizer, "--error-exitcode", "9", "--tool", tool]
    for name in CORRECTNESS:
        yield run_step(f"{tool} {name}", [*command, program_in(folder, name), 0, "quick"], 60)


def measure_roofline(roofline: Path, folder: Path) -> tuple[list[dict[str, Any]], list[Outcome]]:
    """Every measurement as a record; ours and cuBLAS first, then torch's int4."""
    int4 = Path(__file__).with_name("torch_int4.py")
    ours, theirs = folder / "roofline.jsonl", folder / "torch_int4.jsonl"
    outcomes = [
        run_step("roofline", [roofline, ours], 120),
        run_step("torch int4 baseline", [sys.executable, int4, theirs], 60),
    ]
    lines = [line for path in (ours, theirs) if path.exists() for line in path.open()]
    return [json.loads(line) for line in lines if line.endswith("}\n")], outcomes


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="GPU checks of the kernels")
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("--out", type=Path, required=True, help="folder for kernels.json and .md")
    parser.add_argument("--grid", choices=("quick", "full"), default="full")
    parser.add_argument("--architectures", default=",".join(ARCHITECTURES), metavar="80,90")
    arguments = parser.parse_args(argv)
    folder = arguments.out / "build" / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.action == "build":
        try:
            programs = build(folder, arguments.architectures.split(","))
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"compiled for sm {arguments.architectures}: {', '.join(programs)}")
        return 0
    report = Report(arguments.out)
    if arguments.action == "roofline":
        records, outcomes = measure_roofline(program_in(folder, "roofline"), arguments.out)
        report.roofline = records
        return report.take(outcomes)
    if arguments.action == "correctness":
        return report.take(check_correctness(folder, arguments.grid))
    if arguments.action == "persistent":
        return report.take(check_persistent(folder, arguments.out, arguments.grid))
    return report.take(check_sanitizer(arguments.action, folder))


class Report:
    """kernels.json and kernels.md, shared by the actions and written after every outcome."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.outcomes: list[dict[str, Any]] = []
        self.roofline: list[dict[str, Any]] = []
        if (out / "kernels.json").exists():
            before = json.loads((out / "kernels.json").read_text(encoding="utf-8"))
            self.outcomes, self.roofline = before["outcomes"], before["roofline"]

    def take(self, outcomes: Iterable[Outcome]) -> int:
        """Add outcomes as they come; 0 if all are well."""
        all_well = True
        for outcome in outcomes:
            print(line_of(asdict(outcome)), flush=True)
            self.outcomes.append(asdict(outcome))
            self.write()
            all_well = all_well and outcome.ok
        return int(not all_well)

    def write(self) -> None:
        content = {"outcomes": self.outcomes, "roofline": self.roofline}
        (self.out / "kernels.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        has_copy = any(record["kernel"] == "copy" for record in self.roofline)
        table = roofline_table(self.roofline) if has_copy else "No bandwidth was measured.\n"
        lines = "\n".join(line_of(outcome) for outcome in self.outcomes)
        (self.out / "kernels.md").write_text(f"{lines}\n\n{table}", encoding="utf-8")


def line_of(outcome: dict[str, Any]) -> str:
    return f"- {'ok' if outcome['ok'] else 'FAILED'} {outcome['step']}: {outcome['detail']}"


if __name__ == "__main__":
    sys.exit(main())
