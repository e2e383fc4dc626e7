"""Serving figures of one engine: equality in a shared batch, throughput, what the server adds.

python scripts/measure_serving.py --engine engine/ --python .venv-triton/bin/python
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from river_trt import GenerationConfig
from river_trt.errors import RiverError
from river_trt.triton.settings import ModelSettings
from scripts.research.serving import check_equality, prompts, seconds, serve_many
from scripts.temporary_server import temporary_server


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--python", type=Path, default=Path(".venv-triton/bin/python"))
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-batch-invariant", action="store_true")
    args = parser.parse_args(argv)
    settings = ModelSettings(
        str(args.engine.resolve()),
        max_batch_size=args.max_batch_size,
        max_seq_len=1024,
        threads=args.threads,
        batch_invariant=not args.no_batch_invariant,
    )
    engine = settings.load_engine(Path())
    config = GenerationConfig(
        max_new_tokens=args.tokens,
        ignore_eos=True,
        temperature=0,
        repetition_penalty=1,
    )
    with temporary_server(settings, args.python) as server:
        check_equality(server, engine, args.tokens)
        text = prompts(1)[0]
        runtime, one, eight = [], [], []
        for _ in range(args.rounds):
            runtime.append(seconds(lambda: engine.generate(text, config)))
            one.append(seconds(lambda: serve_many(server, 1, args.tokens)))
            eight.append(seconds(lambda: serve_many(server, 8, args.tokens)))
    added = 1e3 * (median(one) - median(runtime)) / args.tokens
    speeds = args.tokens / median(one), 8 * args.tokens / median(eight)
    print(f"runtime, one stream:   {args.tokens / median(runtime):7.1f} tokens/s")
    print(f"server, one stream:    {speeds[0]:7.1f} tokens/s, {added:+.2f} ms a token")
    print(f"server, eight streams: {speeds[1]:7.1f} tokens/s, {speeds[1] / speeds[0]:.2f} x one")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RiverError as error:
        sys.exit(f"error: {error}")
