"""Load a tritonserver with mixed, cancelled and malformed requests, and look at what remains.

python scripts/soak_triton.py --engine engine/ --python .venv-triton/bin/python
"""

import argparse
import concurrent.futures
import dataclasses
import json
import random
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from river_trt.errors import RiverError
from river_trt.triton.local_server import LocalServer
from river_trt.triton.settings import ModelSettings
from scripts.temporary_server import temporary_server

MALFORMED: tuple[Any, ...] = (
    {"text_input": ""},
    {"text_input": "a", "max_tokens": "many"},
    {"text_input": "a", "temperature": -1},
    {"text_input": "a", "colour": "red"},
    {"max_tokens": 4},
    b"{",
)


@dataclass(frozen=True, slots=True)
class Plan:
    clients: int
    requests: int
    max_tokens: int
    max_prompt: int  # characters
    timeout: float  # seconds a request may take before it counts as hanging
    cancelled: float = 0.10
    malformed: float = 0.05


def soak(server: LocalServer, plan: Plan, seed: int) -> Counter[str]:
    """How the requests ended: text, cancelled, refused, wrong or hanging."""
    choice = random.Random(seed)  # noqa: S311
    kinds = ["cancel"] * round(plan.cancelled * plan.requests)
    kinds += ["malformed"] * round(plan.malformed * plan.requests)
    kinds += ["text"] * (plan.requests - len(kinds))
    choice.shuffle(kinds)
    with concurrent.futures.ThreadPoolExecutor(plan.clients) as pool:
        jobs = [pool.submit(send_request, server, plan, kind, choice.random()) for kind in kinds]
        return Counter(job.result() for job in jobs)


def send_request(server: LocalServer, plan: Plan, kind: str, seed: float) -> str:
    choice = random.Random(seed)  # noqa: S311
    body: Any = {
        "text_input": "word " * choice.randint(1, max(1, plan.max_prompt // 5)),
        "max_tokens": choice.randint(1, plan.max_tokens),
        "ignore_eos": True,
        "stream": kind == "cancel" or choice.random() < 0.5,
    }
    if kind == "cancel":
        body["max_tokens"] = plan.max_tokens
    if kind == "malformed":
        body = choice.choice(MALFORMED)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    streams = isinstance(body, dict) and body.get("stream", False)
    action = "generate_stream" if streams else "generate"
    url = f"{server.url}/v2/models/river_llm/{action}"
    try:
        request = urllib.request.Request(url, data)  # noqa: S310
        with urllib.request.urlopen(request, timeout=plan.timeout) as answer:  # noqa: S310
            if kind == "cancel":
                answer.readline()
                return "cancelled"
            text = answer.read()
    except urllib.error.HTTPError as error:
        message = json.loads(error.read()).get("error", "")
        if kind == "malformed" and message:
            return "malformed, refused with a reason"
        return f"refused: {message[:60]}"
    except TimeoutError:
        return "HANGING"
    if kind == "malformed" or b'"error"' in text or b"text_output" not in text:
        return f"WRONG: {text[:60]!r}"
    return "text"


def memory(server: LocalServer) -> int:
    """Resident bytes of the server and its stubs."""
    import psutil

    process = psutil.Process(server.pid)
    return sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--python", type=Path, default=Path(".venv-triton/bin/python"))
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--max-prompt", type=int, default=400, help="characters")
    parser.add_argument("--max-seq-len", type=int, default=512)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds of a request")
    args = parser.parse_args(argv)
    plan = Plan(args.clients, args.requests, args.max_tokens, args.max_prompt, args.timeout)
    settings = ModelSettings(str(args.engine), max_seq_len=args.max_seq_len)
    with temporary_server(settings, args.python) as server:
        # The same load once before: it fills the caches and the allocators' pools.
        warm = dataclasses.replace(plan, requests=max(1, plan.requests // 3))
        soak(server, warm, seed=1)
        before, started = memory(server), time.perf_counter()
        endings = soak(server, plan, seed=2)
        seconds = time.perf_counter() - started
        time.sleep(2)
        after = memory(server)
    for ending, count in sorted(endings.items()):
        print(f"{count:6}  {ending}")
    growth = after / before - 1
    sizes = f"{before / 2**20:.0f} -> {after / 2**20:.0f} MiB, {growth:+.1%}"
    print(f"{seconds:.0f} s; memory {sizes}")
    left = list(server.shared_memory())
    print(f"shared-memory segments left: {len(left)}")
    bad = sum(count for ending, count in endings.items() if ending.startswith(("HANG", "WRONG")))
    return int(bad > 0 or abs(growth) > 0.05 or bool(left))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RiverError as error:
        sys.exit(f"error: {error}")
