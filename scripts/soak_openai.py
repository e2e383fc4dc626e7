"""Load `river-trt serve` with mixed, cancelled, malformed and hostile requests; see what remains.

python scripts/soak_openai.py --engine engine/

Rounds without and with hostile requests take turns, because a machine's speed drifts.
"""

import argparse
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from river_trt.errors import RiverError
from scripts.hostile_requests import WILD_VALUES
from scripts.research.openai_server import Address, openai_server

PATHS = ("/v1/completions", "/v1/chat/completions")
FIELDS = (
    *("max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", "stop", "stop_token_ids"),
    *("presence_penalty", "logit_bias", "logprobs", "top_logprobs", "echo", "n", "stream"),
    *("response_format", "tools", "tool_choice", "river", "chat_template_kwargs", "colour"),
)
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "maximum": 99}},
    "required": ["ok", "n"],
    "additionalProperties": False,
}
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"river": {"mode": "lossless"}},
    {"river": {"mode": "full"}, "logprobs": 2, "echo": True},
    {"n": 2, "temperature": 1.0, "presence_penalty": 0.5},
    {
        "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        "river": {"mode": "lossless"},
        "ignore_eos": False,
    },
    {"stop": ["e"], "logit_bias": {"5": -10}, "river": {"tau": 0.9, "trace": True}},
)


def _nested(text: str) -> Callable[[random.Random], bytes]:
    return lambda choice: text.encode() * choice.choice((100, 5000, 100_000))


HOSTILE: tuple[Callable[[random.Random], bytes], ...] = (
    _nested("["),
    _nested('{"a":'),
    lambda c: c.randbytes(c.randint(1, 4000)),
    lambda c: json.dumps(_good(c) | {c.choice(FIELDS): c.choice(WILD_VALUES)}).encode(),
    lambda c: json.dumps(_good(c) | {"prompt": "a" * c.choice((50_000, 900_000))}).encode(),
    lambda c: json.dumps(_good(c) | {"prompt": "x" * 3_000_000}).encode(),
    lambda c: json.dumps(_good(c) | {"stop": ["s" * 1000] * 200}).encode(),
    lambda c: json.dumps({"messages": [{"role": c.choice(WILD_VALUES), "content": "x"}]}).encode(),
    lambda c: json.dumps({"messages": [{"role": "user", "content": "x"}] * 20_000}).encode(),
    lambda c: json.dumps(
        _good(c)
        | {
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "schema": c.choice(
                        (
                            {"type": "string", "pattern": "^(.*a.{40}|.*b.{30}|.*c.{50})$"},
                            {"properties": {f"p{i}": {} for i in range(1500)}},
                            {"type": "array", "minItems": 10**8},
                            {"$ref": "#"},
                            {"not": {}},
                        )
                    )
                },
            }
        }
    ).encode(),
)


def _good(choice: random.Random) -> dict[str, Any]:
    return {
        "prompt": "word " * choice.randint(1, 60),
        "max_tokens": choice.randint(1, 32),
        "ignore_eos": True,
        "temperature": 0,
    }


def send(client: httpx.Client, kind: str, seed: int) -> tuple[str, float]:
    """How one request ended, and the seconds that it took."""
    choice = random.Random(seed)  # noqa: S311
    started = time.perf_counter()
    try:
        ending = _send(client, kind, choice)
    except httpx.TimeoutException:
        ending = "HANGING"
    except httpx.TransportError as error:
        ending = f"CLOSED: {type(error).__name__}"
    return ending, time.perf_counter() - started


def _send(client: httpx.Client, kind: str, choice: random.Random) -> str:
    body = _good(choice) | choice.choice(KINDS)
    if kind == "cancel":
        long = {"stream": True, "max_tokens": 200, "echo": False}
        with client.stream("POST", PATHS[0], json=body | long) as answer:
            next(answer.iter_lines(), None)
        return "cancelled"
    if kind == "hostile":
        if choice.random() < 0.1:
            return _half_a_body(client, choice)
        answer = client.post(choice.choice(PATHS), content=choice.choice(HOSTILE)(choice))
        return f"hostile: {answer.status_code}"
    if kind == "malformed":
        field = choice.choice(("temperature", "max_tokens", "logprobs", "colour"))
        answer = client.post(PATHS[0], json=body | {field: "many"})
        error = answer.json()["error"]
        right = answer.status_code == 400 and error["param"] == field
        return "refused, the field is named" if right else f"WRONG: {error}"
    body["stream"] = not body.get("echo") and choice.random() < 0.5
    answer = client.post(PATHS[0], json=body)
    if answer.status_code != 200 or '"error"' in answer.text:
        return f"WRONG: {answer.status_code} {answer.text[:200]}"
    return "answered"


def _half_a_body(client: httpx.Client, choice: random.Random) -> str:
    url = client.base_url
    with socket.create_connection((url.host, url.port or 80), timeout=5) as connection:
        head = f"POST {PATHS[0]} HTTP/1.1\r\nHost: a\r\nContent-Length: "
        connection.sendall(f'{head}{choice.choice((5000, -1))}\r\n\r\n{{"pro'.encode())
    return "hostile: left"


def one_round(
    server: Address, args: argparse.Namespace, seed: int, *, hostile: bool
) -> tuple[Counter[str], list[float]]:
    """Endings, and seconds of the good ones."""
    count = args.requests
    kinds = ["cancel"] * (count // 10) + ["malformed"] * (count // 20)
    kinds += ["good"] * (count - len(kinds))
    kinds += ["hostile"] * (count // 9 if hostile else 0)
    random.Random(seed).shuffle(kinds)  # noqa: S311
    limits = httpx.Limits(max_connections=None)
    with (
        httpx.Client(base_url=server.url, timeout=args.timeout, limits=limits) as client,
        ThreadPoolExecutor(args.clients) as pool,
    ):
        jobs = [pool.submit(send, client, kind, seed + i) for i, kind in enumerate(kinds)]
        ended = [job.result() for job in jobs]
    seconds = [s for kind, (_, s) in zip(kinds, ended, strict=True) if kind == "good"]
    return Counter(ending for ending, _ in ended), seconds


def metric(server: Address, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=500, help="in a round")
    parser.add_argument("--rounds", type=int, default=2, help="of each kind")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds of a request")
    parser.add_argument("--threads", default="1", help="of the engine; the clients need one too")
    args = parser.parse_args(argv)
    options = ("--max-seq-len", "512", "--max-queue", "64", "--threads", args.threads)
    endings: Counter[str] = Counter()
    found: dict[bool, list[float]] = {False: [], True: []}
    with openai_server(args.engine, options) as server:
        process = psutil.Process(server.pid)
        one_round(server, args, 10**6, hostile=True)  # fills caches and pools
        before = process.memory_info().rss
        for number in range(args.rounds):
            for hostile in (False, True):
                ended, seconds = one_round(server, args, 10_000 * number, hostile=hostile)
                endings += ended
                found[hostile] += seconds
                p50, p99 = np.percentile(seconds, (50, 99))
                kind = "with" if hostile else "without"
                print(f"round {number + 1} {kind:8} p50 {p50:.3f} s, p99 {p99:.3f} s", flush=True)
        time.sleep(2)
        after = process.memory_info().rss
        running = metric(server, "vllm:num_requests_running")
        faults = metric(server, "river:internal_errors_total")
        reused = metric(server, "vllm:prefix_cache_hits_total")
        ready = httpx.get(f"{server.url}/ready").status_code == 200
    for ending, count in sorted(endings.items()):
        print(f"{count:6}  {ending}")
    p99 = {hostile: float(np.percentile(seconds, 99)) for hostile, seconds in found.items()}
    print(f"p99 {p99[False]:.3f} s without, {p99[True]:.3f} s with: x {p99[True] / p99[False]:.2f}")
    print(
        f"memory {before / 2**20:.0f} -> {after / 2**20:.0f} MiB; {running:.0f} left running, "
        f"{faults:.0f} faults, {reused:.0f} prompt tokens reused; "
        f"{'ready' if ready else 'NOT READY'}"
    )
    wrong = any(ending.startswith(("WRONG", "HANG", "CLOSED", "hostile: 5")) for ending in endings)
    return int(wrong or running > 0 or faults > 0 or not ready or after > 1.1 * before)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RiverError as error:
        sys.exit(f"error: {error}")
