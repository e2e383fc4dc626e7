"""torch's own int4 weight-only product: the public W4A16 kernel beside which ours is timed.

usage: torch_int4.py OUT.jsonl. One record per linear of roofline.cu and number of rows. Needs a
torch with CUDA.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import torch

GROUP_SIZE = 128
LAUNCHES = 40
REPLAYS = 12
SPREAD_BYTES = 400 << 20  # copies of the weight together, so that L2 holds none of them
ROWS = (1, 2, 4, 8)
SHAPES = {  # model: (linear, n, k), as in roofline.cu
    "Llama-3.2-1B": (
        ("qkv", 3072, 2048),
        ("o", 2048, 2048),
        ("gate_up", 16384, 2048),
        ("down", 2048, 8192),
    ),
    "Llama-3.1-8B": (
        ("qkv", 6144, 4096),
        ("o", 4096, 4096),
        ("gate_up", 28672, 4096),
        ("down", 4096, 14336),
    ),
    "Llama-3.1-70B": (
        ("qkv", 10240, 8192),
        ("o", 8192, 8192),
        ("gate_up", 57344, 8192),
        ("down", 8192, 28672),
    ),
}


def main(path: str) -> int:
    if not torch.cuda.is_available():
        print("torch is built without CUDA, or sees no GPU: its int4 product is not timed")
        return 1
    with open(path, "w", encoding="utf-8") as out:
        for model, linears in SHAPES.items():
            for linear, n, k in linears:
                for record in measure(n, k):
                    out.write(json.dumps({"model": model, "linear": linear, **record}) + "\n")
    return 0


def measure(n: int, k: int) -> Iterator[dict[str, Any]]:
    """Records of one weight; microseconds a launch are the median of replays of a CUDA graph."""
    aten = torch.ops.aten
    code_bytes = n * k // 2
    copies = min(LAUNCHES, max(1, SPREAD_BYTES // code_bytes))
    codes = torch.randint(0, 256, (n, k // 2), dtype=torch.uint8, device="cuda")
    weights = [aten._convert_weight_to_int4pack(codes, 8) for _ in range(copies)]
    scales = torch.rand(k // GROUP_SIZE, n, 2, dtype=torch.bfloat16, device="cuda")
    for rows in ROWS:
        x = torch.randn(rows, k, dtype=torch.bfloat16, device="cuda")
        us = time_launches(x, weights, scales)
        size = code_bytes + 4 * (k // GROUP_SIZE) * n + 2 * rows * (n + k)
        yield {
            "kernel": "torch_int4",
            "n": n,
            "k": k,
            "rows": rows,
            "us": us,
            "gb_per_s": size / us / 1000,
        }


def time_launches(x: torch.Tensor, weights: list[torch.Tensor], scales: torch.Tensor) -> float:
    def step() -> None:
        for i in range(LAUNCHES):
            torch.ops.aten._weight_int4pack_mm(x, weights[i % len(weights)], GROUP_SIZE, scales)

    step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    times = []
    for _ in range(REPLAYS + 2):  # the first two warm up
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return 1000 * sorted(times[2:])[REPLAYS // 2] / LAUNCHES


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
