"""Prometheus metrics: vLLM's names where the meaning is the same, River's own beside them."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from river_trt.results import TokenEvent
from river_trt.serving.server import Server

FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BETWEEN = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
WHOLE = (0.1, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0)
GAUGES = {
    "vllm:num_requests_running": ("running", "Requests that hold a cache row."),
    "vllm:num_requests_waiting": ("waiting", "Requests that wait for a cache row."),
}
COUNTERS = {
    "vllm:prompt_tokens": ("prompt_tokens", "Tokens of prompts."),
    "vllm:prefix_cache_queries": ("prompt_tokens", "Tokens of prompts, looked up in kept rows."),
    "vllm:prefix_cache_hits": ("reused_tokens", "Tokens of prompts whose K and V were kept."),
    "vllm:generation_tokens": ("generated_tokens", "Tokens generated."),
    "river:prefill_tokens": ("prefill_tokens", "Tokens of prompts that were read."),
    "river:prefill_seconds": ("prefill_seconds", "Seconds that reading them took."),
    "river:decode_tokens": ("decode_tokens", "Tokens of decode steps."),
    "river:backbone_layers": ("backbone_layers", "Layers that ran the backbone for those tokens."),
    "river:decode_steps": ("decode_steps", "Decode steps, of rows of one policy each."),
    "river:drafted_tokens": ("drafted_tokens", "Tokens that the river drafted."),
    "river:accepted_tokens": ("accepted_tokens", "Drafted tokens that the backbone accepted."),
    "river:requests_rejected": ("rejected", "Requests refused because the server was full."),
    "river:requests_invalid": ("invalid", "Requests refused for what they ask."),
    "river:requests_cancelled": ("cancelled", "Requests whose client left."),
    "river:requests_failed": ("failed", "Requests ended by an error of the engine."),
    "river:internal_errors": ("internal_errors", "Requests ended by a fault of river-trt."),
}


class SchedulerCollector(Collector):
    """Reads each model's scheduler when Prometheus asks."""

    def __init__(self, servers: Mapping[str, Server], rows: int) -> None:
        self._servers, self._rows = servers, rows

    def collect(self) -> Iterable[Metric]:
        """All families, each with a sample for every model."""
        counts = {name: server.metrics for name, server in self._servers.items()}
        for metric, (attribute, about) in GAUGES.items():
            gauge = GaugeMetricFamily(metric, about, labels=["model_name"])
            for name, found in counts.items():
                gauge.add_metric([name], getattr(found, attribute))
            yield gauge
        used = GaugeMetricFamily(
            "vllm:kv_cache_usage_perc", "Cache rows in use, 1 is all.", labels=["model_name"]
        )
        for name, found in counts.items():
            used.add_metric([name], found.running / self._rows)
        yield used
        for metric, (attribute, about) in COUNTERS.items():
            counter = CounterMetricFamily(metric, about, labels=["model_name"])
            for name, found in counts.items():
                counter.add_metric([name], getattr(found, attribute))
            yield counter


class HttpMetrics:
    """What is seen at the door; `registry` has the schedulers' counts too."""

    def __init__(self, servers: Mapping[str, Server], rows: int) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(SchedulerCollector(servers, rows))

        def histogram(name: str, about: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, about, ["model_name"], buckets=buckets, registry=self.registry)

        self.first = histogram(
            "vllm:time_to_first_token_seconds", "From the request to its first token.", FIRST
        )
        self.between = histogram(
            "vllm:inter_token_latency_seconds", "Between two tokens of a request.", BETWEEN
        )
        self.whole = histogram(
            "vllm:e2e_request_latency_seconds", "From the request to its last token.", WHOLE
        )
        self.done = Counter(
            "vllm:request_success",
            "Requests that were answered whole, by why they ended.",
            ["model_name", "finished_reason"],
            registry=self.registry,
        )


@dataclass(slots=True)
class Watch:
    """The times of one choice's tokens."""

    metrics: HttpMetrics
    model: str
    started: float = field(default_factory=time.perf_counter)
    last: float | None = None

    def see(self, event: TokenEvent) -> None:
        """A token has come, just now."""
        now = time.perf_counter()
        if self.last is None:
            self.metrics.first.labels(self.model).observe(now - self.started)
        else:
            self.metrics.between.labels(self.model).observe(now - self.last)
        self.last = now
        if event.finish_reason is not None:
            self.metrics.whole.labels(self.model).observe(now - self.started)
            self.metrics.done.labels(self.model, event.finish_reason).inc()
