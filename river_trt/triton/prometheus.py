"""The scheduler's metrics as Prometheus metrics of the Triton server."""

import time
from typing import Any

from river_trt.serving.metrics import ServingMetrics

# name after river_trt_, what it counts, where it is in ServingMetrics. Counters only grow.
COUNTERS = (
    ("requests_completed_total", "Requests answered to the end", "completed"),
    ("requests_cancelled_total", "Requests cancelled by the client", "cancelled"),
    ("requests_rejected_total", "Requests refused by the admission limit", "rejected"),
    ("requests_invalid_total", "Requests refused for what they ask", "invalid"),
    ("internal_errors_total", "Requests ended by a fault of river-trt", "internal_errors"),
    ("requests_failed_total", "Requests ended by an error of the engine", "failed"),
    ("prompt_tokens_total", "Prompt tokens", "prompt_tokens"),
    ("generated_tokens_total", "Generated tokens", "generated_tokens"),
    ("decode_tokens_total", "Generated tokens, without each request's first", "decode_tokens"),
    ("backbone_layers_total", "Backbone layers run for the decode tokens", "backbone_layers"),
    ("decode_steps_total", "Decode steps", "decode_steps"),
    ("lossless_rounds_total", "Verifications of a row in lossless mode", "lossless_rounds"),
    ("drafted_tokens_total", "Tokens drafted in lossless mode", "drafted_tokens"),
    ("accepted_tokens_total", "Drafted tokens that were accepted", "accepted_tokens"),
    ("prefill_tokens_total", "Prompt tokens that were read", "prefill_tokens"),
    ("prefill_seconds_total", "Seconds that reading them took", "prefill_seconds"),
    ("draft_seconds_total", "Seconds of draft steps", "draft_seconds"),
    ("verify_seconds_total", "Seconds of verifications", "verify_seconds"),
    ("queue_seconds_total", "Seconds from submission to prefill", "queue_seconds"),
    ("first_token_seconds_total", "Seconds to the first token", "first_token_seconds"),
    ("latency_seconds_total", "Seconds to the last token", "latency_seconds"),
)
GAUGES = (
    ("running_requests", "Requests that hold a row of the cache", "running"),
    ("waiting_requests", "Requests in the queue", "waiting"),
    ("draft_acceptance", "Share of drafted tokens accepted, so far", "draft_acceptance"),
    ("mean_backbone_layers", "Backbone layers a decode token, so far", "mean_backbone_layers"),
)
INTERVAL = 0.5  # seconds


class PrometheusMetrics:
    """Used by one thread only: the server crashes when two increment a metric at once."""

    def __init__(self, pb_utils: Any, model_name: str) -> None:
        self._families: list[Any] = []  # a metric is gone when its family is
        counter, gauge = pb_utils.MetricFamily.COUNTER, pb_utils.MetricFamily.GAUGE
        self._counters = self._make(pb_utils, COUNTERS, counter, model_name)
        self._gauges = self._make(pb_utils, GAUGES, gauge, model_name)
        self._reported = dict.fromkeys(self._counters, 0.0)
        self._due = 0.0

    def _make(
        self, pb_utils: Any, table: tuple[tuple[str, str, str], ...], kind: Any, model_name: str
    ) -> dict[str, Any]:
        """Metrics by their place in ServingMetrics."""
        metrics = {}
        for name, description, source in table:
            family = pb_utils.MetricFamily(
                name=f"river_trt_{name}", description=description, kind=kind
            )
            self._families.append(family)
            metrics[source] = family.Metric(labels={"model": model_name})
        return metrics

    def report(self, metrics: ServingMetrics, *, now: bool = False) -> None:
        """At most every INTERVAL, because each value is a message to the server; or now."""
        if not now and time.monotonic() < self._due:
            return
        self._due = time.monotonic() + INTERVAL
        for source, counter in self._counters.items():
            value = getattr(metrics, source)
            if value > self._reported[source]:
                counter.increment(value - self._reported[source])
                self._reported[source] = value
        for source, gauge in self._gauges.items():
            gauge.set(getattr(metrics, source))
