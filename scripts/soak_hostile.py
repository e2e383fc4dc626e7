"""How much a hostile tenth costs the others: p99 of good requests with it and without it.

python scripts/soak_hostile.py --engine engine/ --python .venv-triton/bin/python

Rounds without and with hostile clients take turns on one server, because a machine's speed drifts.
Hostile clients are processes of their own, so that what they do to Python costs the others nothing
on this side.
"""

import argparse
import dataclasses
import itertools
import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from river_trt.errors import RiverError
from river_trt.triton.local_server import LocalServer
from river_trt.triton.settings import ModelSettings
from scripts.hostile_requests import hostile_kinds, hostile_requests
from scripts.soak_triton import Plan, memory, send_request
from scripts.temporary_server import temporary_server


def good_requests(
    server: LocalServer, plan: Plan, clients: int, done: Any
) -> tuple[list[float], Counter[str]]:
    """Seconds of each of plan.requests, and how they ended."""
    choice = random.Random(7)  # noqa: S311  (the same requests in every round)

    def ask(seed: float) -> tuple[float, str]:
        started = time.perf_counter()
        ending = send_request(server, plan, "text", seed)
        seconds = time.perf_counter() - started
        with done.get_lock():
            done.value += 1
        return seconds, ending

    with ThreadPoolExecutor(clients) as pool:
        found = list(pool.map(ask, [choice.random() for _ in range(plan.requests)]))
    return [seconds for seconds, _ in found], Counter(ending for _, ending in found)


def be_hostile(
    address: dict[str, Any],
    seed: int,
    count: int,
    total: int,
    largest: int | None,
    done: Any,
    endings: Any,
) -> None:
    """One hostile client: as far with its requests as the good ones are with theirs."""
    import tritonclient.grpc  # noqa: F401  (here, not while others are timed)

    server = SimpleNamespace(**address)
    endings.put(None)  # it has started
    while done.value == 0:
        time.sleep(0.01)
    requests = hostile_requests(server, seed, largest=largest)
    for sent, (kind, ending) in enumerate(itertools.islice(requests, count)):
        endings.put((kind, ending))
        while done.value < total and done.value / total < (sent + 1) / count:
            time.sleep(0.01)


def one_round(
    server: LocalServer,
    plan: Plan,
    clients: int,
    hostile_clients: int,
    seed: int,
    largest: int | None,
) -> tuple[list[float], Counter[str], Counter[str]]:
    """Seconds and endings of the good ones, endings of the hostile ones."""
    context = multiprocessing.get_context("spawn")
    done, endings = context.Value("i", 0), context.SimpleQueue()
    address = {"url": server.url, "http_port": server.http_port, "grpc_port": server.grpc_port}
    share = plan.requests // 9  # a tenth of all
    processes = []
    for client in range(hostile_clients):
        count = share // hostile_clients
        arguments = (address, seed + 100 * client, count, plan.requests, largest, done, endings)
        processes.append(context.Process(target=be_hostile, args=arguments))
    for process in processes:
        process.start()
    for _ in processes:
        endings.get()
    seconds, good = good_requests(server, plan, clients, done)
    hostile: Counter[str] = Counter()
    for process in processes:
        while process.is_alive() or not endings.empty():
            if endings.empty():
                process.join(0.05)
            else:
                hostile[endings.get()[1]] += 1
    return seconds, good, hostile


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--python", type=Path, default=Path(".venv-triton/bin/python"))
    parser.add_argument("--clients", type=int, default=32, help="a tenth of them hostile")
    parser.add_argument("--requests", type=int, default=1000, help="a tenth of them hostile")
    parser.add_argument("--rounds", type=int, default=3, help="of each kind")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--max-prompt", type=int, default=100, help="characters")
    parser.add_argument("--max-seq-len", type=int, default=512)
    parser.add_argument("--threads", type=int, help="of the engine; leave a core to the clients")
    parser.add_argument(
        "--largest-body", type=int, help="bytes that a proxy would let through (default: no proxy)"
    )
    args = parser.parse_args(argv)
    hostile_clients = max(1, args.clients // 10)
    good_clients = args.clients - hostile_clients
    requests = args.requests * 9 // 10
    plan = Plan(good_clients, requests, args.max_tokens, args.max_prompt, timeout=600.0)
    settings = ModelSettings(str(args.engine), max_seq_len=args.max_seq_len, threads=args.threads)
    found: dict[str, list[float]] = {"without": [], "with": []}
    endings: dict[str, Counter[str]] = {"good": Counter(), "hostile": Counter()}
    with temporary_server(settings, args.python) as server:
        # Every kind twice, so that the allocators' pools have seen the largest bodies.
        for _ in itertools.islice(hostile_requests(server, 99), 2 * len(hostile_kinds(server))):
            pass
        warm = dataclasses.replace(plan, requests=max(9, requests // 5))
        one_round(server, warm, good_clients, hostile_clients, 99, args.largest_body)
        before = memory(server)
        for number in range(args.rounds):
            for kind, hostile in (("without", 0), ("with", hostile_clients)):
                seconds, good, bad = one_round(
                    server, plan, good_clients, hostile, number, args.largest_body
                )
                found[kind] += seconds
                endings["good"] += good
                endings["hostile"] += bad
                rates = ", ".join(f"p{p} {np.percentile(seconds, p):.3f} s" for p in (50, 90, 99))
                print(f"round {number + 1} {kind:8} {rates}", flush=True)
        ready = all(entry["state"] == "READY" for entry in server.index())
        after = memory(server)
    for kind, counter in endings.items():
        print(f"{kind}: " + ", ".join(f"{count} x {end}" for end, count in counter.most_common()))
    p99 = {kind: float(np.percentile(seconds, 99)) for kind, seconds in found.items()}
    ratio = p99["with"] / p99["without"]
    print(f"p99 {p99['without']:.3f} s without, {p99['with']:.3f} s with: x {ratio:.2f}")
    sizes = f"{before / 2**20:.0f} -> {after / 2**20:.0f} MiB"
    print(f"memory {sizes}; {'ready' if ready else 'NOT READY'}")
    wrong = set(endings["good"]) != {"text"} or "HANGING" in endings["hostile"]
    return int(wrong or ratio > 1.5 or not ready)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RiverError as error:
        sys.exit(f"error: {error}")
