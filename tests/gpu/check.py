"""What scripts/gpu_check.sh runs: every check and measurement that needs a GPU, and one report.

Needs python3 with torch, nvcc and cmake; imports nothing else. A step that fails does not stop the
others; the exit code tells whether all passed. usage: check.py [--out DIR] [--dry-run]
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BUDGET_S = 520  # of all steps together: the whole call stays below 9 minutes
DECODE_S = 110  # the decode bench starts no new model after that
PARTS = ("kernels", "decode")  # steps that leave <part>.json and <part>.md in the folder
TAIL = 4000  # characters of a step's output that the report keeps


@dataclass(frozen=True)
class Step:
    name: str
    command: Sequence[str | Path]
    limit_s: int
    needs: str | None = None  # a program on the PATH without which the step cannot run
    on_dry_run: bool = True  # whether it compiles rather than runs


@dataclass(frozen=True)
class Outcome:
    name: str
    state: str  # passed, failed, skipped
    seconds: float
    detail: str  # the reason, or the end of the output


def make_steps(out: Path, architecture: str, torch_root: Path, dry_run: bool) -> list[Step]:
    python, build = sys.executable, out / "build"
    kernels = [python, ROOT / "tests/gpu/kernel_checks.py", "--out", out]
    configure = [
        *("cmake", "-S", ROOT / "plugins", "-B", build, "-DRIVER_PARTS=torch"),
        f"-DCMAKE_CUDA_ARCHITECTURES={architecture}",
        f"-DTORCH_ROOT={torch_root}",
        *(["-G", "Ninja"] if shutil.which("ninja") else []),
    ]
    library = build / "libriver_trt_torch.so"
    compile_it = ["cmake", "--build", build, "--parallel", "--target", "river_trt_torch"]
    check = [python, ROOT / "tests/gpu/check_operators.py", library, "cuda"]
    aoti = [python, ROOT / "tests/gpu/check_aoti.py", library, "cuda"]
    decode = [python, ROOT / "tests/gpu/decode_bench.py", library, "cuda", "--out", out]
    decode += ["--seconds", str(DECODE_S)]
    return [
        Step("kernels", [*kernels, *(["--dry-run"] if dry_run else [])], 300, needs="nvcc"),
        Step("torch operators: configure", configure, 60, needs="nvcc"),
        Step("torch operators: compile", compile_it, 200, needs="nvcc"),
        Step("torch operators: compare", check, 90, on_dry_run=False),
        Step("decode", decode, 200, on_dry_run=False),
        Step("AOTInductor package", aoti, 120, on_dry_run=False),
    ]


def run(step: Step, seconds_left: float) -> Outcome:
    if step.needs is not None and shutil.which(step.needs) is None:
        return Outcome(step.name, "failed", 0.0, f"no {step.needs} on this machine")
    if seconds_left < 1:
        return Outcome(step.name, "failed", 0.0, "no time left")
    start = time.monotonic()
    limit = min(step.limit_s, seconds_left)
    try:
        done = subprocess.run(
            step.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
        state = "passed" if done.returncode == 0 else "failed"
        detail = done.stdout[-TAIL:]
    except subprocess.TimeoutExpired:
        state, detail = "failed", f"took longer than {limit:.0f} s"
    except OSError as error:
        state, detail = "failed", f"{step.command[0]}: {error.strerror}"
    return Outcome(step.name, state, round(time.monotonic() - start, 1), detail)


def run_all(steps: Iterable[Step], budget_s: float, dry_run: bool = False) -> list[Outcome]:
    deadline = time.monotonic() + budget_s
    outcomes = []
    for step in steps:
        print(f"== {step.name}", flush=True)
        if dry_run and not step.on_dry_run:
            outcome = Outcome(step.name, "skipped", 0.0, "dry run")
        else:
            outcome = run(step, deadline - time.monotonic())
        print(f"{outcome.detail.rstrip()}\n   {outcome.state} in {outcome.seconds} s", flush=True)
        outcomes.append(outcome)
    return outcomes


def markdown(report: dict[str, Any], sections: dict[str, str]) -> str:
    """The report for people; the sections are what kernels and decode wrote, or nothing."""
    machine = report["machine"]
    lines = [
        "# GPU check of river-trt",
        "",
        f"{report['date']}, commit {report['commit']}: {machine['device']}, "
        f"torch {machine['torch']}, {machine['nvcc']}.",
        "",
        "| step | state | s |",
        "|---|---|---|",
    ]
    for step in report["steps"]:
        reason = f": {step['detail']}" if step["state"] == "skipped" else ""
        lines.append(f"| {step['name']} | {step['state']}{reason} | {step['seconds']} |")
    for step in report["steps"]:
        if step["state"] == "failed":
            lines += ["", f"## {step['name']} failed", "", "```", step["detail"].strip(), "```"]
    for title, text in sections.items():
        lines += ["", f"## {title}", "", text.strip() or "Nothing was measured."]
    return "\n".join(lines) + "\n"


def last_line(*command: str) -> str:
    """The last line of a program's output, or that it is not there."""
    if shutil.which(command[0]) is None:
        return f"no {command[0]}"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.strip().splitlines() or [""])[-1]


def write_report(out: Path, machine: dict[str, str], outcomes: Iterable[Outcome]) -> None:
    """gpu_check.json and gpu_check.md, with what the steps left in the same folder."""
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": last_line("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "machine": machine,
        "steps": [asdict(outcome) for outcome in outcomes],
    }
    for part in PARTS:
        path = out / f"{part}.json"
        report[part] = json.loads(path.read_text()) if path.exists() else None
    (out / "gpu_check.json").write_text(json.dumps(report, indent=1) + "\n")
    sections = {
        part.capitalize(): path.read_text() if (path := out / f"{part}.md").exists() else ""
        for part in PARTS
    }
    (out / "gpu_check.md").write_text(markdown(report, sections))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="gpu_check.sh", description="Every check and measurement that needs a GPU."
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu_check", metavar="DIR")
    parser.add_argument("--dry-run", action="store_true", help="compile everything, run nothing")
    args = parser.parse_args(argv)
    import torch  # after the arguments: --help needs no torch

    has_gpu = torch.cuda.is_available()
    if not has_gpu and not args.dry_run:
        print("error: torch sees no GPU here; --dry-run compiles without one", file=sys.stderr)
        return 2
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        for stale in (f"{part}.json", f"{part}.md"):
            (out / stale).unlink(missing_ok=True)
    capability = torch.cuda.get_device_capability() if has_gpu else (9, 0)
    architecture = f"{capability[0]}{capability[1]}-real"
    steps = make_steps(out, architecture, Path(torch.__file__).parent, args.dry_run)
    # A machine without a GPU is no H100 machine with 16 cores: it gets the time that it needs.
    outcomes = run_all(steps, 3600 if args.dry_run else BUDGET_S, args.dry_run)
    machine = {
        "device": torch.cuda.get_device_name() if has_gpu else "no GPU",
        "torch": torch.__version__,
        "nvcc": last_line("nvcc", "--version"),
    }
    write_report(out, machine, outcomes)
    print(f"report: {out / 'gpu_check.md'}")
    return int(any(outcome.state == "failed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
