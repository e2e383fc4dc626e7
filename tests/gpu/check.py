"""What scripts/gpu_check.sh runs: every check and measurement that needs a GPU, and one report.

Needs python3 with torch, nvcc and cmake; imports nothing else (the part `engine` also needs what
river-trt itself needs). Each step is a process of its own, with its log in DIR/logs, and the report
is written anew after each: one that fails, hangs or kills this script loses nothing of the others.

--dry-run compiles everything; what can run over the kernels' CPU shim runs there.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BUDGET_S = {"quick": 235, "full": 520}  # of all steps together
PARTS = ("kernels", "operators", "engine", "speed", "decode", "persistent", "aoti")
TAIL = 4000  # characters of a step's output that the report keeps
KILL_AFTER_S = 5
NEEDED_BY_THE_CLI = ("jinja2", "numpy", "rich", "safetensors", "tokenizers", "transformers")
# Over the kernels' CPU shim: the build folder that the tests share.
SHIM = ROOT / "build" / "plugins" / "tests" / "torch" / "libriver_shim_torch.so"
BUILD_SHIM = "from tests.plugins import native; native.build('river_shim_torch')"
Command = Sequence[str | Path]


@dataclass(frozen=True)
class Step:
    name: str
    parts: tuple[str, ...]  # of PARTS: it runs where one of them is asked for
    command: Command
    limit_s: int
    dry: Command | None = None  # in its place on a dry run; None: it needs a GPU
    needs: str | None = None  # a program on the PATH without which the step cannot run


@dataclass(frozen=True)
class Outcome:
    name: str
    state: str  # passed, failed, skipped
    seconds: float
    detail: str  # the reason, or the end of the output


def make_steps(out: Path, architecture: str, torch_root: Path, mode: str) -> list[Step]:
    """In the order of what a lost machine would be missed for most."""
    python, build = sys.executable, out / "build"
    here = ROOT / "tests" / "gpu"
    library = build / "operators" / "libriver_trt_torch.so"
    plugin = [python, "-m", "river_trt", "plugin", "build", "--part", "torch", "--out", library]
    plugin += ["--architectures", f"{architecture}-real"]
    configure: Command = [
        *("cmake", "-S", ROOT / "plugins", "-B", library.parent, "-DRIVER_PARTS=torch"),
        f"-DCMAKE_CUDA_ARCHITECTURES={architecture}-real",
        f"-DTORCH_ROOT={torch_root}",
        *(["-G", "Ninja"] if shutil.which("ninja") else []),
    ]
    make: Command = ["cmake", "--build", library.parent, "--target", "river_trt_torch"]
    on_library = ("operators", "decode", "aoti")
    through_cli = (*on_library, "engine", "speed")
    grid = "quick" if mode == "quick" else "full"

    def kernels(action: str, *, limit_s: int, dry: bool = False) -> Step:
        command = [python, here / "kernel_checks.py", action, "--out", out, "--grid", grid]
        build_it = [*command, "--architectures", architecture]
        return Step(
            f"kernels: {action}",
            {"build": ("kernels", "persistent"), "persistent": ("persistent",)}.get(
                action, ("kernels",)
            ),
            build_it if action == "build" else command,
            limit_s,
            [*command, "--architectures", "80,90"] if dry else None,
            needs="nvcc" if action == "build" else None,
        )

    def decode(model: str, batch: int, limit_s: int) -> Step:
        arguments = ["--out", out, "--model", model, "--batch", str(batch)]
        dry = None
        if (model, batch) == ("Llama-3.1-8B", 1):
            dry = [python, here / "decode_bench.py", SHIM, "cpu", "--out", out]
        command = [python, here / "decode_bench.py", library, "cuda", *arguments]
        return Step(f"decode: {model}, batch {batch}", ("decode",), command, limit_s, dry)

    def aoti(what: str) -> Step:
        command = [python, here / "check_aoti.py", what]
        return Step(
            f"aoti: {what}", ("aoti",), [*command, library, "cuda"], 90, [*command, SHIM, "cpu"]
        )

    def speed(model: str) -> Step:
        command = [python, here / "engine_bench.py", "--out", out, "--model", model]
        dry = [*command, "--library", SHIM] if model == "Llama-3.2-1B" else None
        return Step(f"speed: {model}", ("speed",), command, 120, dry)

    engine = [python, here / "engine.py", "--out", out]
    # What a user types leaves the library where `river-trt run` finds it, and needs what river-trt
    # needs. Where that is not installed, everything but an engine is checked all the same.
    if all(importlib.util.find_spec(name) is not None for name in NEEDED_BY_THE_CLI):
        library.parent.mkdir(parents=True, exist_ok=True)
        compiling = [Step("operators: compile", through_cli, plugin, 200, plugin, needs="nvcc")]
    else:
        compiling = [
            Step("operators: configure", on_library, configure, 60, configure, needs="nvcc"),
            Step("operators: compile", on_library, [*make, "--parallel"], 200, make, needs="nvcc"),
        ]
    steps = [
        *compiling,
        Step("shim: compile", through_cli, [], 1, [python, "-c", BUILD_SHIM]),
        Step(
            "operators: compare",
            ("operators",),
            [python, here / "check_operators.py", library, "cuda"],
            60,
            [python, here / "check_operators.py", SHIM, "cpu"],
        ),
        Step("engine: build and run", ("engine",), engine, 120, [*engine, "--library", SHIM]),
        decode("Llama-3.1-8B", 1, 100),
        kernels("build", limit_s=120, dry=True),
        kernels("correctness", limit_s=120),
        kernels("persistent", limit_s=90),
        aoti("plain"),
        aoti("operators"),
        kernels("roofline", limit_s=60),
        kernels("memcheck", limit_s=60),
        kernels("racecheck", limit_s=90),
    ]
    if mode == "full":
        rest = [("Llama-3.1-8B", 4), ("Llama-3.2-1B", 1), ("Llama-3.2-1B", 4)]
        rest += [("Llama-3.1-70B", 1), ("Llama-3.1-70B", 4)]
        steps += [speed("Llama-3.2-1B"), speed("Llama-3.1-8B")]
        steps += [decode(model, batch, 100) for model, batch in rest]
    return steps


def run(step: Step, log: Path, seconds_left: float) -> Outcome:
    """Run a step to its end or its limit; its output goes to the log as it comes."""
    if step.needs is not None and shutil.which(step.needs) is None:
        return Outcome(step.name, "failed", 0.0, f"no {step.needs} on this machine")
    if seconds_left < 1:
        return Outcome(step.name, "failed", 0.0, "no time left")
    start = time.monotonic()
    limit = min(step.limit_s, seconds_left)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with log.open("wb") as output:
        try:
            process = subprocess.Popen(
                step.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # so that what it started ends with it
            )
        except OSError as error:
            return Outcome(step.name, "failed", 0.0, f"{step.command[0]}: {error.strerror}")
        try:
            code = process.wait(limit)
            reason = "" if code == 0 else f"\nended by {ending(code)}"
        except subprocess.TimeoutExpired:
            code, reason = 1, f"\ntook longer than {limit:.0f} s"
        finally:
            end_group(process)
    detail = log.read_text(errors="replace")[-TAIL:] + reason
    state = "passed" if code == 0 else "failed"
    return Outcome(step.name, state, round(time.monotonic() - start, 1), detail.lstrip("\n"))


def ending(code: int) -> str:
    return f"exit code {code}" if code > 0 else signal.Signals(-code).name


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a step's processes."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(KILL_AFTER_S)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def run_all(
    steps: Iterable[Step],
    out: Path,
    budget_s: float,
    dry_run: bool = False,
    report: Callable[[list[Outcome]], None] = lambda outcomes: None,
) -> list[Outcome]:
    """Every step in turn; `report` is called with what there is after each."""
    deadline = time.monotonic() + budget_s
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    outcomes: list[Outcome] = []
    for number, step in enumerate(steps, 1):
        print(f"== {step.name}", flush=True)
        if dry_run and step.dry is None:
            outcome = Outcome(step.name, "skipped", 0.0, "needs a GPU")
        else:
            if dry_run:
                assert step.dry is not None
                # A machine without a GPU is no H100 machine with 16 cores.
                step = Step(step.name, step.parts, step.dry, 3600, needs=None)
            name = re.sub(r"[^a-z0-9]+", "-", step.name.lower())
            log = logs / f"{number:02}-{name}.log"
            outcome = run(step, log, deadline - time.monotonic())
        shown = "\n".join(outcome.detail.rstrip().splitlines()[-25:])
        print(f"{shown}\n   {outcome.state} in {outcome.seconds} s", flush=True)
        outcomes.append(outcome)
        report(outcomes)
    return outcomes


def markdown(report: dict[str, Any], sections: dict[str, str]) -> str:
    """The report for people; the sections are what the parts wrote."""
    machine = report["machine"]
    lines = [
        "# GPU check of river-trt",
        "",
        f"{report['date']}, commit {report['commit']}, {report['mode']}: {machine['device']}, "
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


def write_report(
    out: Path, facts: dict[str, Any], outcomes: Iterable[Outcome], parts: Sequence[str] = PARTS
) -> None:
    """gpu_check.json and gpu_check.md, with what the steps left in the same folder."""
    report = facts | {"steps": [asdict(outcome) for outcome in outcomes]}
    sections = {}
    for part in parts:
        data, text = out / f"{part}.json", out / f"{part}.md"
        report[part] = json.loads(data.read_text()) if data.exists() else None
        if text.exists():
            sections[part.capitalize()] = text.read_text()
    replace(out / "gpu_check.json", json.dumps(report, indent=1) + "\n")
    replace(out / "gpu_check.md", markdown(report, sections))


def replace(path: Path, text: str) -> None:
    """Whole or not at all, whenever this script is ended."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="gpu_check.sh", description="Every check and measurement that needs a GPU."
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu_check", metavar="DIR")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--quick", action="store_const", const="quick", dest="mode", help="in under 4 minutes"
    )
    modes.add_argument(
        "--full", action="store_const", const="full", dest="mode", help="in 9 (the default)"
    )
    parser.add_argument(
        "--only",
        type=lambda text: tuple(text.split(",")),
        default=PARTS,
        metavar="PART",
        help=f"some of {','.join(PARTS)}",
    )
    parser.add_argument("--dry-run", action="store_true", help="without a GPU: over the CPU shim")
    parser.set_defaults(mode="full")
    args = parser.parse_args(argv)
    unknown = sorted(set(args.only) - set(PARTS))
    if unknown:
        parser.error(f"--only {unknown[0]}: the parts are {', '.join(PARTS)}")
    import torch  # after the arguments: --help needs no torch

    has_gpu = torch.cuda.is_available()
    if not has_gpu and not args.dry_run:
        print("error: torch sees no GPU here; --dry-run does without one", file=sys.stderr)
        return 2
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        for stale in (f"{part}.json", f"{part}.md"):
            (out / stale).unlink(missing_ok=True)
    capability = torch.cuda.get_device_capability() if has_gpu else (9, 0)
    architecture = f"{capability[0]}{capability[1]}"
    steps = make_steps(out, architecture, Path(torch.__file__).parent, args.mode)
    chosen = [
        step
        for step in steps
        if set(step.parts) & set(args.only) and (step.command or args.dry_run)
    ]
    facts = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": last_line("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "mode": "dry run" if args.dry_run else args.mode,
        "machine": {
            "device": torch.cuda.get_device_name() if has_gpu else "no GPU",
            "torch": torch.__version__,
            "nvcc": last_line("nvcc", "--version"),
        },
    }
    budget = 3600 if args.dry_run else BUDGET_S[args.mode]
    outcomes = run_all(
        chosen,
        out,
        budget,
        args.dry_run,
        lambda outcomes: write_report(out, facts, outcomes, args.only),
    )
    print(f"report: {out / 'gpu_check.md'}")
    return int(any(outcome.state == "failed" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
