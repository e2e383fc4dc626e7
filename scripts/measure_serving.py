"""Serving figures of one engine: equality in a shared batch, throughput, what the server adds.

python scripts/measure_serving.py --engine engine/ --python .venv-triton/bin/python
"""

import argparse
import concurrent.futures
import json
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

from temporary_server import temporary_server

from river_trt import Engine, GenerationConfig
from river_trt.errors import RiverError
from river_trt.triton.local_server import LocalServer
from river_trt.triton.settings import ModelSettings

SUBJECTS = (
    "a volcano",
    "the moon over a month",
    "rain",
    "an old library in a small town",
    "winter",
    "the first train",
    "gold and how it is found in rivers",
    "a busy market",
)


def prompts(count: int) -> list[str]:
    """Of different lengths."""
    return [f"{'Once upon a time. ' * (i // 8)}Describe {SUBJECTS[i % 8]}." for i in range(count)]


def ask(server: LocalServer, prompt: str, tokens: int, stream: bool = True) -> str:
    body = {
        "text_input": prompt,
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": stream,
        "exclude_input_in_output": True,
    }
    action = "generate_stream" if stream else "generate"
    url = f"{server.url}/v2/models/river_llm/{action}"
    request = urllib.request.Request(url, json.dumps(body).encode())  # noqa: S310
    parts = []
    with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
        for line in answer:
            if line.strip():
                parts.append(json.loads(line.removeprefix(b"data: "))["text_output"])
    return "".join(parts)


def check_equality(server: LocalServer, engine: Engine, tokens: int) -> None:
    """16 requests at once, over both endpoints, against the runtime alone."""
    texts = prompts(16)
    lengths = [tokens // 2 + 4 * i for i in range(16)]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        jobs = [
            pool.submit(ask, server, text, length, i % 2 == 0)
            for i, (text, length) in enumerate(zip(texts, lengths, strict=True))
        ]
        served = [job.result() for job in jobs]
    alone = [
        engine.generate(
            text,
            GenerationConfig(
                max_new_tokens=length,
                ignore_eos=True,
                temperature=0,
                repetition_penalty=1,
            ),
        )[0].text
        for text, length in zip(texts, lengths, strict=True)
    ]
    equal = sum(a == b for a, b in zip(served, alone, strict=True))
    print(f"texts equal to the runtime's alone, 16 requests at once: {equal} of 16")


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def serve_many(server: LocalServer, streams: int, tokens: int) -> None:
    texts = prompts(8)
    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
        list(pool.map(lambda i: ask(server, texts[i % 8], tokens), range(streams)))


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
