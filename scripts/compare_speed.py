"""Decode speed of a River engine beside its plain 4-bit graph and onnxruntime-genai, in one run.

All arms take turns, so that a change in the machine's speed meets them all alike; the order turns
round every other round, the first round warms up, and medians are compared.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from peer_genai import GenaiPeer, build_peer
from rich.console import Console
from rich.table import Table

import river_trt
from builders.build import BuildOptions, build

PROMPT = "Rivers carry water from the mountains to the sea. On their way they"
INF = float("inf")

# Runs num_tokens after the prompt; returns decode tokens/s and mean backbone layers.
Decode = Callable[[list[int], int], tuple[float, float | None]]


@dataclass(frozen=True, slots=True)
class Result:
    arm: str
    tokens_per_second: float  # median
    lowest: float
    highest: float
    backbone_layers: float | None


def river_arm(
    engine: river_trt.Engine, tau: float | None, pinned: tuple[int, ...] | None
) -> Decode:
    def decode(prompt: list[int], num_tokens: int) -> tuple[float, float]:
        config = river_trt.GenerationConfig(
            max_new_tokens=num_tokens, tau=tau, pinned=pinned, ignore_eos=True
        )
        (result,) = engine.generate([prompt], config)
        speed = (len(result.token_ids) - 1) / result.decode_seconds
        return speed, mean(result.backbone_layers[1:])

    return decode


def plain_arm(engine: river_trt.Engine) -> Decode:
    decode = river_arm(engine, INF, ())
    return lambda prompt, num_tokens: (decode(prompt, num_tokens)[0], None)


def peer_arm(peer: GenaiPeer) -> Decode:
    return lambda prompt, num_tokens: (peer.decode(prompt, num_tokens).tokens_per_second, None)


def compare(
    arms: dict[str, Decode], prompt: list[int], num_tokens: int, rounds: int
) -> list[Result]:
    speeds: dict[str, list[float]] = {name: [] for name in arms}
    layers: dict[str, float | None] = {}
    for number in range(rounds + 1):
        order = list(arms.items())
        for name, decode in reversed(order) if number % 2 else order:
            speed, layers[name] = decode(prompt, num_tokens)
            if number:
                speeds[name].append(speed)
    return [
        Result(name, median(values), min(values), max(values), layers[name])
        for name, values in speeds.items()
    ]


def engine_of(options: BuildOptions, threads: int) -> river_trt.Engine:
    if not options.out.exists():
        build(options)
    return river_trt.load(options.out, max_batch_size=1, max_seq_len=1024, threads=threads)


def ratios(results: Sequence[Result]) -> dict[str, float]:
    speed = {result.arm: result.tokens_per_second for result in results}
    pairs = [
        ("full depth", "genai fp32"),
        ("all river", "genai int4"),
        ("river", "full depth"),
        ("all river", "plain 4-bit"),
        ("full depth", "plain backbone"),
    ]
    return {f"{a} / {b}": speed[a] / speed[b] for a, b in pairs if a in speed and b in speed}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--work", type=Path, required=True, help="keeps engines and peers")
    parser.add_argument("--lm-head-bits", type=int, default=8)
    parser.add_argument("--tau", type=float, default=0.97, help="of the arm `river`, no pins")
    parser.add_argument("--num-tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--skip-peers", action="store_true", help="without onnxruntime-genai")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)

    def options(name: str, banks: Any) -> BuildOptions:
        out = args.work / f"{name}-head{args.lm_head_bits}"
        return BuildOptions(args.model, out, lm_head_bits=args.lm_head_bits, banks=banks)

    engine = engine_of(options("river", "both"), args.threads)
    assert engine.tokenizer is not None
    prompt = engine.tokenizer.encode(PROMPT)
    arms = {
        "full depth": river_arm(engine, INF, ()),
        "river": river_arm(engine, args.tau, ()),
        "all river": river_arm(engine, -INF, ()),
        "plain backbone": plain_arm(engine_of(options("plain-fp32", "backbone"), args.threads)),
        "plain 4-bit": plain_arm(engine_of(options("plain-int4", "river"), args.threads)),
    }
    if not args.skip_peers:
        for precision in ("fp32", "int4"):
            directory = build_peer(args.model, precision, args.work / "peers")
            arms[f"genai {precision}"] = peer_arm(GenaiPeer(directory, args.threads))
    results = compare(arms, prompt, args.num_tokens, args.rounds)
    report = {"results": [asdict(result) for result in results], "ratios": ratios(results)}
    if args.json:
        print(json.dumps(report, indent=2))
        return 0
    table = Table("arm", "tokens/s", "lowest", "highest", "backbone layers")
    for r in results:
        depth = "" if r.backbone_layers is None else f"{r.backbone_layers:.2f}"
        table.add_row(
            r.arm, *(f"{v:.1f}" for v in (r.tokens_per_second, r.lowest, r.highest)), depth
        )
    console = Console()
    console.print(table)
    for name, ratio in report["ratios"].items():
        console.print(f"{name:32} {ratio:.2f}x")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
