"""The aotinductor engine of a model beside its onnxruntime engine: same tokens, and the speed."""

from pathlib import Path
from statistics import median
from typing import Any

import river_trt
from builders.build import BuildOptions, build
from river_trt.backends.base import SessionOptions
from scripts.research.eager import load_eager

PROMPTS = (
    "Rivers carry water from the mountains to the sea. On their way they",
    "The capital of France is",
    "def fibonacci(n):",
    "Once upon a time, in a small village,",
)
TAUS = {"full depth": float("inf"), "tau 0.97": 0.97, "all river": -float("inf")}
MAX_SEQ_LEN = 1024


def load_engines(
    work: Path, model: str, river_activation: str, threads: int | None, modes: str = ""
) -> dict[str, river_trt.Engine]:
    """Both engines, built where `work` has them not; modes: "torch.compile", "eager torch" too."""
    engines = {}
    for backend in ("onnxruntime", "aotinductor"):
        out = work / f"{backend}-{river_activation}"
        if not out.exists():
            # aotinductor's engines have a float32 backbone.
            asked: dict[str, Any] = {"exact": True} if backend == "onnxruntime" else {}
            asked |= {"backend": backend, "river_activation": river_activation}
            build(BuildOptions(model, out, calibrate=False, **asked))
        engines[backend] = river_trt.load(
            out, max_batch_size=len(PROMPTS), max_seq_len=MAX_SEQ_LEN, threads=threads
        )
    for name, compiled in (("torch.compile", True), ("eager torch", False)):
        if name in modes:
            options = SessionOptions(len(PROMPTS), MAX_SEQ_LEN, threads)
            directory = work / f"aotinductor-{river_activation}"
            engines[name] = load_eager(directory, model, options, compiled)
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
