"""Decode speed beside programs that keep cores busy: all threads, one thread, onnxruntime-genai.

    python scripts/measure_contention.py --engine ENGINE [--busy 0 1 2 4] [--peer genai-int4]

Each arm is a process that stays loaded; they take turns in each round, so that what else the
machine does meets all of them. Medians of tokens/s, and the first arm's ratio to the best other.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import river_trt
from river_trt.benchmark.peers import Peer

PROMPT = list(range(300, 332))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", required=True)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--peer", help="genai-int4, for one")
    parser.add_argument("--model", default="demo", help="of the peer")
    parser.add_argument("--work", type=Path, default=Path("build/peers"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--tau", type=float, help="of all layers (default: the engine's policy)")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)  # threads of an arm's process
    args = parser.parse_args(argv)
    if args.serve is not None:
        _serve(args.engine, args.serve, args.tokens, args.tau)
        return
    with ExitStack() as stack:
        arms: dict[str, Callable[[], float]] = {}
        for name, threads in (("ours", 0), ("ours, one thread", 1)):
            arms[name] = stack.enter_context(_arm(args, threads))
        if args.peer:
            peer = stack.enter_context(Peer(args.peer, args.model, args.work, None))

            def run_peer() -> float:
                run = peer.run([[PROMPT]], args.tokens)
                return run.tokens / run.seconds

            arms[args.peer] = run_peer
        for measure in arms.values():
            measure()  # warm
        print("busy  " + "  ".join(f"{name:>16}" for name in arms) + "  ours / best other")
        for busy in args.busy:
            with _busy(busy):
                found: dict[str, list[float]] = {name: [] for name in arms}
                for _ in range(args.rounds):
                    for name, measure in arms.items():
                        found[name].append(measure())
            medians = [statistics.median(values) for values in found.values()]
            row = "  ".join(f"{value:>16.1f}" for value in medians)
            print(f"{busy:4}  {row}  {medians[0] / max(medians[1:]):.2f}", flush=True)


@contextmanager
def _arm(args: argparse.Namespace, threads: int) -> Iterator[Callable[[], float]]:
    command = [sys.executable, __file__, "--engine", args.engine, "--serve", str(threads)]
    command += ["--tokens", str(args.tokens)]
    if args.tau is not None:
        command += ["--tau", str(args.tau)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    questions, answers = process.stdin, process.stdout

    def measure() -> float:
        questions.write("again\n")
        questions.flush()
        return float(answers.readline())

    try:
        yield measure
    finally:
        process.kill()
        process.communicate()


def _serve(engine: str, threads: int, tokens: int, tau: float | None) -> None:
    """Of an arm's process: one measurement for each line on stdin."""
    loaded = river_trt.load(engine, threads=threads or None)
    config = river_trt.GenerationConfig(
        max_new_tokens=tokens, temperature=0.0, ignore_eos=True, tau=tau
    )
    for _ in sys.stdin:
        (result,) = loaded.generate([PROMPT], config)
        print((len(result.token_ids) - 1) / result.decode_seconds, flush=True)


@contextmanager
def _busy(count: int) -> Iterator[None]:
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


if __name__ == "__main__":
    main()
