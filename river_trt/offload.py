"""Backbone layers in host memory: which stay on the GPU and what a token costs, by arithmetic.

The river, the shared weights and the KV cache always stay; backbone layers stay in the order in
which they run most often: pinned ones, then from the first on (a token leaves the backbone once).
Nothing here is measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from river_trt.errors import RiverError
from river_trt.manifest import Manifest, cache_slot_bytes


@dataclass(frozen=True, slots=True)
class Card:
    """Bandwidths in bytes a second, as the vendor states them."""

    name: str
    memory: float
    host: float  # PCIe, one direction


CARDS = {
    card.name: card
    for card in (
        Card("a100", 2.0e12, 32e9),  # 80 GB, PCIe 4.0 x16
        Card("h100", 3.35e12, 64e9),  # SXM, PCIe 5.0 x16
        Card("h200", 4.8e12, 64e9),
        Card("l40s", 0.864e12, 32e9),
    )
}


@dataclass(frozen=True, slots=True)
class OffloadPlan:
    """resident, host: backbone layers, numbered from 1. Bytes of GPU memory: needed, budget."""

    manifest: Manifest
    resident: tuple[int, ...]
    host: tuple[int, ...]
    needed: int
    budget: int

    def token(self, exit_layer: int, card: Card) -> "TokenCost":
        """A decode step of one row whose token exits after this layer."""
        counts, layers = self.manifest.bytes_per_layer, self.manifest.model.shape.num_layers
        pinned = self.manifest.policy.pinned
        run = {*pinned, *range(1, exit_layer + 1)}
        from_host = len(run & {*self.host}) * counts.backbone_layer
        streamed = len(self.host) * counts.backbone_layer
        on_gpu = counts.per_token(len(run), layers) - from_host
        seconds = on_gpu / card.memory
        return TokenCost(
            exit_layer,
            len(run),
            from_host,
            seconds + from_host / card.host,
            seconds + streamed / card.host,
        )


@dataclass(frozen=True, slots=True)
class TokenCost:
    """seconds: where only the layers that run are read; streamed_seconds: all of them each step."""

    exit_layer: int
    backbone_layers: int
    host_bytes: int
    seconds: float
    streamed_seconds: float


def plan_offload(manifest: Manifest, budget: int, rows: int = 1) -> OffloadPlan:
    """budget: bytes of GPU memory for weights of both banks and the cache of `rows` full rows.

    Raises RiverError where not even the river, the shared weights and the cache fit.
    """
    counts, shape = manifest.bytes_per_layer, manifest.model.shape
    layers = shape.num_layers
    shared = counts.lm_head + shape.vocab_size * counts.embedding
    cache = rows * shape.max_seq_len * cache_slot_bytes(manifest)
    least = shared + cache + (layers - 1) * counts.river_layer  # layer 1 has no river
    if budget < least:
        raise RiverError(
            f"offload: {budget / 1e9:.1f} GB are less than the {least / 1e9:.1f} GB of the river, "
            "the shared weights and the KV cache, which stay on the GPU"
        )
    pinned = manifest.policy.pinned
    order = [*pinned, *(layer for layer in range(1, layers + 1) if layer not in pinned)]
    stay = min(layers, (budget - least) // counts.backbone_layer) if counts.backbone_layer else 0
    resident, host = sorted(order[:stay]), sorted(order[stay:])
    needed = least + layers * counts.backbone_layer
    return OffloadPlan(manifest, tuple(resident), tuple(host), needed, budget)


def mean_cost(plan: OffloadPlan, card: Card, exit_counts: Sequence[int]) -> TokenCost:
    """Over a distribution of exit layers: exit_counts[l - 1] tokens exited after layer l.

    Raises RiverError for counts that are not one a layer, or none.
    """
    layers = plan.manifest.model.shape.num_layers
    if len(exit_counts) != layers or sum(exit_counts) < 1 or min(exit_counts) < 0:
        raise RiverError(f"exit counts must be {layers} numbers of at least 0, not all 0")
    total = sum(exit_counts)
    costs = [plan.token(layer, card) for layer in range(1, layers + 1)]

    def mean(values: Sequence[float]) -> float:
        return sum(n * value for n, value in zip(exit_counts, values, strict=True)) / total

    return TokenCost(
        round(mean([cost.exit_layer for cost in costs])),
        round(mean([cost.backbone_layers for cost in costs])),
        round(mean([cost.host_bytes for cost in costs])),
        mean([cost.seconds for cost in costs]),
        mean([cost.streamed_seconds for cost in costs]),
    )


def parse_bytes(text: str) -> int:
    """16GB, 80 GiB, 500MB as bytes. RiverError for anything else."""
    units = {"gb": 10**9, "gib": 2**30, "mb": 10**6, "mib": 2**20}
    number = text.strip().lower()
    for unit, factor in units.items():
        if number.endswith(unit):
            try:
                value = float(number.removesuffix(unit))
            except ValueError:
                break
            if 0 < value < 1e6:
                return int(value * factor)
    raise RiverError(f"a memory size reads like 16GB or 24GiB, got {text!r}")
