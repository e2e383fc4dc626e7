"""Speed on this CPU: vLLM with the plain model, vLLM with the River model, and our own runtime.

    python scripts/measure_vllm.py --river CHECKPOINT --plain MODEL --engine ENGINE [--rounds 3]

Needs .venv-vllm (scripts/setup_vllm.sh). MODEL is the Hugging Face directory that the checkpoint
and the engine were made of. One stream, greedy; the arms take turns in each round, each a process
of its own that stays loaded; medians of decode tokens/s, and ratios to the plain model in vLLM.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
WORKER = ROOT / "scripts" / "vllm_worker.py"
PROMPT = list(range(300, 364))
NEW_TOKENS = 64
OPERATORS = 12  # of a profile, by name


class Arm:
    """A worker that measures once for each line that it is given."""

    def __init__(self, name: str, python: Path, spec: dict[str, Any], threads: int) -> None:
        self.name = name
        environment = os.environ | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": str(threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_LOGGING_LEVEL": "ERROR",
        }
        self._process = subprocess.Popen(
            [python, WORKER, json.dumps(spec)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()  # loaded and warm

    def ask(self, line: str) -> dict[str, Any]:
        """What the worker answers to "again" or "profile"."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("measured "):
                found: dict[str, Any] = json.loads(line.removeprefix("measured "))
                return found
        raise SystemExit(f"{self.name}: the worker ended")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--river", type=Path, required=True)
    parser.add_argument("--plain", type=Path, required=True)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--pinned", default="30", help="of the shallow arms (default: 30)")
    parser.add_argument("--tau", type=float, default=0.97, help="of the shallow arms")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="and vLLM with torch.compile")
    parser.add_argument("--profile", action="store_true", help="and where vLLM's steps spend time")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(argv)
    vllm, ours = ROOT / ".venv-vllm/bin/python", Path(sys.executable)
    pinned = [int(layer) for layer in args.pinned.split(",")]
    shallow = {"river_tau": args.tau, "river_pinned": pinned}
    common = {"prompt": PROMPT, "new_tokens": NEW_TOKENS}
    plain, river = {"vllm": str(args.plain)}, {"vllm": str(args.river)}
    ours_full = {"engine": str(args.engine), "tau": "inf", "pinned": []}
    specs: dict[str, dict[str, Any]] = {
        "vLLM, plain": plain,
        "vLLM, River, full depth": river | {"extra": {"river_tau": "inf"}},
        "vLLM, River": river | {"extra": shallow},
        "our runtime, full depth": ours_full,
        "our runtime, River": ours_full | {"tau": args.tau, "pinned": pinned},
    }
    if args.compile:  # it takes a minute or more to load
        specs["vLLM, plain, compiled"] = plain | {"compile": True}
        specs["vLLM, River, compiled"] = river | {"extra": shallow, "compile": True}
    arms = [
        Arm(name, vllm if "vllm" in spec else ours, common | spec, args.threads)
        for name, spec in specs.items()
    ]
    found: dict[str, list[dict[str, float]]] = {arm.name: [] for arm in arms}
    for _ in range(args.rounds):
        for arm in arms:
            found[arm.name].append(arm.ask("again"))
    profiles = {
        arm.name: arm.ask("profile") for arm in arms if args.profile and "vllm" in specs[arm.name]
    }
    for arm in arms:
        arm.close()
    base = None
    print(f"{'':26}  tokens/s   ratio  first token  layers")
    for name, rounds in found.items():
        speed = statistics.median((NEW_TOKENS - 1) / r["decode"] for r in rounds)
        first = statistics.median(r["first"] for r in rounds)
        base = base or speed
        layers = rounds[0]["layers"]
        print(
            f"{name:26}  {speed:8.1f}  {speed / base:5.2f}x  {first * 1e3:8.0f} ms  {layers:6.1f}"
        )
    print(time.strftime("%Y-%m-%d"), f"{args.threads} threads, {args.rounds} rounds")
    for name, profile in profiles.items():
        print_profile(name, profile)


def print_profile(name: str, profile: dict[str, Any]) -> None:
    """Milliseconds of a step by part, as they are; by operator, as the profiler stretches them."""
    step, forward, logits = (profile[part] for part in ("step", "forward", "logits"))
    print(f"\n{name}, ms a step: {step:.1f}")
    print(f"  layers {forward:.1f}, LM head {logits:.1f}, all else {step - forward - logits:.1f}")
    print("  torch operators, under the profiler: ms, calls")
    operators = sorted(profile["operators"].items(), key=lambda found: -found[1][0])
    for operator, (milliseconds, calls) in operators[:OPERATORS]:
        print(f"    {operator:44} {milliseconds:6.2f} {calls:7.1f}")
    rest = [found for _, found in operators[OPERATORS:]]
    print(f"    {'the rest':44} {sum(r[0] for r in rest):6.2f} {sum(r[1] for r in rest):7.1f}")


if __name__ == "__main__":
    main()
