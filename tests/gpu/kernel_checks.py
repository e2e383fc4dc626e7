"""Build the kernel test programs for a GPU and run them: correctness, graph, sanitizers, roofline.

usage: kernel_checks.py --out DIR [--dry-run]. Writes DIR/kernels.json and DIR/kernels.md.
--dry-run compiles everything for sm_80 and sm_90 and runs nothing. scripts/gpu_check.sh calls this.
Needs nvcc, and torch for its baseline; nothing of river-trt's Python.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from roofline_table import roofline_table

PLUGINS = Path(__file__).parents[2] / "plugins"
KERNELS = PLUGINS / "kernels"
TESTS = PLUGINS / "tests" / "kernels"
LIBRARY = ("linear.cu", "linear_prefill.cu", "gate.cu", "attention.cu", "cublaslt.cpp")
CORRECTNESS = ("gate", "attention", "linear", "linear_prefill")
PROGRAMS = {
    **{name: TESTS / f"test_{name}.cpp" for name in CORRECTNESS},
    "graph": TESTS / "gpu" / "test_graph.cu",
    "roofline": TESTS / "gpu" / "roofline.cu",
}
ARCHITECTURES = ("80", "90")
SANITIZERS = ("memcheck", "racecheck")


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


def build(folder: Path) -> dict[str, Path]:
    """name -> program. Raises RuntimeError with the compiler's text."""
    nvcc = find_program("nvcc")
    flags = ["-std=c++20", "-O3", "-lineinfo", "-Xcompiler=-Wall,-Wextra,-Werror"]
    flags += ["-Werror=all-warnings", f"-I{KERNELS}", f"-I{TESTS}"]
    flags += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    sources = [(KERNELS / name, folder / f"{name}.o") for name in LIBRARY]
    sources += [(source, folder / f"{name}.o") for name, source in PROGRAMS.items()]

    def compile_one(pair: tuple[Path, Path]) -> None:
        language = "c++" if pair[0].name == "cublaslt.cpp" else "cu"
        run_compiler([nvcc, *flags, "-x", language, "-c", pair[0], "-o", pair[1]])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(compile_one, sources))
    objects = [folder / f"{name}.o" for name in LIBRARY]
    programs = {name: folder / f"gpu_{name}" for name in PROGRAMS}
    for name, program in programs.items():
        run_compiler([nvcc, folder / f"{name}.o", *objects, "-ldl", "-o", program])
    return programs


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


def check_correctness(programs: dict[str, Path]) -> list[Outcome]:
    """The programs of the CPU tests with real kernels, and the graph."""
    outcomes = [
        run_step(f"correctness {name}", [programs[name], 0, "full"], 60) for name in CORRECTNESS
    ]
    return [*outcomes, run_step("graph replays", [programs["graph"]], 30)]


def check_sanitizers(programs: dict[str, Path]) -> list[Outcome]:
    """compute-sanitizer over the small grids."""
    try:
        sanitizer = find_program("compute-sanitizer")
    except RuntimeError as error:
        return [Outcome("compute-sanitizer", False, str(error))]
    command = [sanitizer, "--error-exitcode", "9"]
    return [
        run_step(f"{tool} {name}", [*command, "--tool", tool, programs[name], 0, "quick"], 60)
        for tool in SANITIZERS
        for name in CORRECTNESS
    ]


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
    parser.add_argument("--out", type=Path, required=True, help="folder for kernels.json and .md")
    parser.add_argument("--dry-run", action="store_true", help="compile only")
    arguments = parser.parse_args(argv)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            programs = build(Path(folder))
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
        if arguments.dry_run:
            print(f"compiled for sm_{', sm_'.join(ARCHITECTURES)}: {', '.join(programs)}")
            print("not run: correctness, graph replays, compute-sanitizer, roofline (dry run)")
            return 0
        outcomes = check_correctness(programs)
        records, measured = measure_roofline(programs["roofline"], Path(folder))
        outcomes += measured
        outcomes += check_sanitizers(programs)
    report = {"outcomes": [asdict(outcome) for outcome in outcomes], "roofline": records}
    (arguments.out / "kernels.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    lines = [f"- {'ok' if o.ok else 'FAILED'} {o.step}: {o.detail}" for o in outcomes]
    has_copy = any(record["kernel"] == "copy" for record in records)
    table = roofline_table(records) if has_copy else "No bandwidth was measured.\n"
    text = "\n".join(lines) + "\n\n" + table
    (arguments.out / "kernels.md").write_text(text, encoding="utf-8")
    print("\n".join(lines))
    return 0 if all(outcome.ok for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
