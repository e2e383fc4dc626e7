"""Requests to a local server: their texts compared with the runtime's, and their time."""

import concurrent.futures
import json
import time
import urllib.request
from collections.abc import Callable

from river_trt import Engine, GenerationConfig
from river_trt.triton.local_server import LocalServer

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
