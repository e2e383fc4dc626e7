"""What `river-trt serve` adds to the runtime: a token's time at one stream, throughput under load.

python scripts/measure_openai.py --engine engine/

The server is a process of its own; the runtime (`Engine.serve`) runs here, and they take turns.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import psutil

import river_trt
from river_trt import GenerationConfig
from river_trt.errors import RiverError
from scripts.research.openai_server import openai_server
from scripts.research.serving import prompts


@dataclass(slots=True)
class Seen:
    """Seconds to each request's first token, between its others, and of all; tokens.

    cpu_seconds: of the process that steps the engine, which a busy machine does not stretch.
    """

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


Ask = Callable[[str, int], AsyncIterator[object]]  # an item a token


async def one_request(ask: Ask, prompt: str, tokens: int, seen: Seen) -> None:
    last = time.perf_counter()
    times = seen.first
    async for _ in ask(prompt, tokens):
        now = time.perf_counter()
        times.append(now - last)
        times, last = seen.between, now
        seen.tokens += 1


async def under_load(ask: Ask, clients: int, requests: int) -> Seen:
    """So many clients, each with one request at a time, of 16 to 64 tokens."""
    seen, texts = Seen(), prompts(16)
    left = iter(range(requests))

    async def client() -> None:
        for number in left:
            await one_request(ask, texts[number % 16], 16 + 16 * (number % 4), seen)

    started = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seen.seconds = time.perf_counter() - started
    return seen


async def alone(ask: Ask, tokens: int) -> Seen:
    seen = Seen()
    started = time.perf_counter()
    await one_request(ask, prompts(1)[0], tokens, seen)
    seen.seconds = time.perf_counter() - started
    return seen


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def http_server(args: argparse.Namespace) -> AsyncIterator[tuple[Ask, psutil.Process]]:
    options = ["--max-batch-size", str(args.max_batch_size), "--max-seq-len", "1024"]
    options += ["--kept-rows", "0"]  # the runtime beside it keeps none
    options += [] if args.threads is None else ["--threads", str(args.threads)]
    with openai_server(args.engine, options) as server:
        # A socket and no client library, whose work on the same cores would count as the server's.
        async def ask(prompt: str, tokens: int) -> AsyncIterator[object]:
            body = {
                "prompt": prompt,
                "max_tokens": tokens,
                "ignore_eos": True,
                "temperature": 0,
                "repetition_penalty": 1,
                "stream": True,
                "river": {"trace": True},  # a chunk for each token, with or without a text
            }
            data = json.dumps(body).encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(data)}"
            writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + data)
            async for line in reader:
                if line.startswith(b"data: {"):
                    yield line
            writer.close()

        yield ask, psutil.Process(server.pid)


async def measure(args: argparse.Namespace) -> int:
    engine = river_trt.load(
        args.engine,
        max_batch_size=args.max_batch_size,
        max_seq_len=1024,
        threads=args.threads,
        prefill_chunk=64,
        batch_invariant=True,
    )
    async with http_server(args) as (http, process), engine.serve(max_queue=64) as server:

        async def runtime(prompt: str, tokens: int) -> AsyncIterator[object]:
            config = GenerationConfig(
                max_new_tokens=tokens, ignore_eos=True, temperature=0, repetition_penalty=1
            )
            async for event in server.stream(prompt, config):
                yield event

        asks = {"runtime": (runtime, psutil.Process()), "server": (http, process)}

        async def rounds(work: Callable[[Ask], Awaitable[Seen]]) -> dict[str, list[Seen]]:
            found: dict[str, list[Seen]] = {name: [] for name in asks}
            for number in range(args.rounds + 1):  # the first warms up
                for name, (ask, stepping) in asks.items():
                    before = cpu_seconds(stepping)
                    seen = await work(ask)
                    seen.cpu_seconds = cpu_seconds(stepping) - before
                    if number:
                        found[name].append(seen)
            return found

        one = await rounds(lambda ask: alone(ask, args.tokens))
        load = await rounds(lambda ask: under_load(ask, args.clients, args.requests))
    tokens = {name: sum(s.tokens for s in seen) for name, seen in load.items()}
    if len(set(tokens.values())) > 1:
        raise RiverError(f"both must give the same tokens, got {tokens}")
    between = {name: median(np.mean(s.between) for s in seen) for name, seen in one.items()}
    added = 1e3 * (between["server"] - between["runtime"])
    print(f"one stream: runtime {1e3 * between['runtime']:.2f} ms a token, server {added:+.2f} ms")
    speed = {name: median(s.tokens / s.seconds for s in seen) for name, seen in load.items()}
    ratio = speed["server"] / speed["runtime"]
    print(
        f"{args.clients} clients: runtime {speed['runtime']:.1f} tokens/s, "
        f"server {speed['server']:.1f}, x {ratio:.3f}"
    )
    cpu = {name: sum(s.cpu_seconds for s in load[name]) / tokens[name] for name in load}
    print(
        f"CPU time a token of the process that steps: runtime {1e3 * cpu['runtime']:.2f} ms, "
        f"server {1e3 * cpu['server']:.2f} ms, x {cpu['server'] / cpu['runtime']:.3f}"
    )
    for name, seen in load.items():
        for what, values in (
            ("first token", [t for s in seen for t in s.first]),
            ("between tokens", [t for s in seen for t in s.between]),
        ):
            p50, p99 = np.percentile(values, (50, 99))
            print(f"{name:8} {what:15} p50 {1e3 * p50:8.1f} ms, p99 {1e3 * p99:8.1f} ms")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=128, help="of the one stream")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int)
    return asyncio.run(measure(parser.parse_args(argv)))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RiverError as error:
        sys.exit(f"error: {error}")
