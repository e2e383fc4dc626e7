"""The aotinductor engine of a model beside its onnxruntime engine: the same tokens, and the speed.

With float32 river activations greedy tokens and exit layers must be equal: the exit code says so.
With int8 a last bit can round to another code, and only the speed counts. Engines take turns in one
process; the first round warms up, and medians are compared.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import river_trt
from builders.aotinductor.eager import load_eager
from builders.build import BuildOptions, build
from river_trt.backends.base import SessionOptions

PROMPTS = (
    "Rivers carry water from the mountains to the sea. On their way they",
    "The capital of France is",
    "def fibonacci(n):",
    "Once upon a time, in a small village,",
)
TAUS = {"full depth": float("inf"), "tau 0.97": 0.97, "all river": -float("inf")}
MAX_SEQ_LEN = 1024


def load_engines(args: argparse.Namespace) -> dict[str, river_trt.Engine]:
    engines = {}
    for backend in ("onnxruntime", "aotinductor"):
        out = args.work / f"{backend}-{args.river_activation}"
        if not out.exists():
            options = BuildOptions(args.model, out, backend=backend)
            build(replace(options, river_activation=args.river_activation))
        engines[backend] = river_trt.load(
            out, max_batch_size=len(PROMPTS), max_seq_len=MAX_SEQ_LEN, threads=args.threads
        )
    for name, compiled in (("torch.compile", True), ("eager torch", False)):
        if name in args.modes:
            options = SessionOptions(len(PROMPTS), MAX_SEQ_LEN, args.threads)
            directory = args.work / f"aotinductor-{args.river_activation}"
            engines[name] = load_eager(directory, args.model, options, compiled)
    return engines


def same_tokens(engines: dict[str, river_trt.Engine], num_tokens: int) -> bool:
    """Whether all engines give the same tokens and exit layers, batched, by each policy."""
    same = True
    for name, tau in TAUS.items():
        for pinned in ((), None):
            config = river_trt.GenerationConfig(
                max_new_tokens=num_tokens,
                tau=tau,
                pinned=pinned,
                ignore_eos=True,
                temperature=0,
                repetition_penalty=1,
            )
            results = {
                engine_name: [
                    (result.token_ids, list(result.exit_layers))
                    for result in engine.generate(PROMPTS, config)
                ]
                for engine_name, engine in engines.items()
            }
            first = next(iter(results.values()))
            for engine_name, found in results.items():
                if found != first:
                    print(f"{engine_name} differs at {name}, pinned {pinned}")
                    same = False
    return same


def speeds(
    engines: dict[str, river_trt.Engine], num_tokens: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Median decode tokens/s by policy and engine, batch 1."""
    found: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        order = list(engines.items())
        for engine_name, engine in reversed(order) if number % 2 else order:
            for name, tau in TAUS.items():
                config = river_trt.GenerationConfig(
                    max_new_tokens=num_tokens,
                    tau=tau,
                    ignore_eos=True,
                    temperature=0,
                    repetition_penalty=1,
                )
                (result,) = engine.generate([PROMPTS[0]], config)
                speed = (len(result.token_ids) - 1) / result.decode_seconds
                if number:
                    found.setdefault((name, engine_name), []).append(speed)
    return {
        name: {engine_name: median(found[name, engine_name]) for engine_name in engines}
        for name in TAUS
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--work", type=Path, required=True, help="folder for the two engines")
    parser.add_argument("--river-activation", default="float32", choices=("float32", "int8"))
    parser.add_argument("--num-tokens", type=int, default=96)
    parser.add_argument("--same-tokens", type=int, default=24, help="compared by each policy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--modes", default="", help="also: torch.compile, eager torch")
    args = parser.parse_args(argv)
    engines = load_engines(args)
    same = same_tokens(engines, args.same_tokens)
    print("same tokens and exit layers" if same else "tokens differ", flush=True)
    print(json.dumps(speeds(engines, args.num_tokens, args.rounds), indent=1))
    return int(not same and args.river_activation == "float32")


if __name__ == "__main__":
    raise SystemExit(main())
