"""River's counters beside vLLM's own at /metrics: entry point vllm.stat_logger_plugins."""

from typing import Any

import numpy as np
from prometheus_client import REGISTRY, Counter
from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase

from river_trt.river_checkpoint import ARCHITECTURE
from river_trt.vllm import statistics

COUNTERS = {
    "river:decode_tokens": "Tokens of decode steps.",
    "river:backbone_layers": "Layers that ran the backbone for those tokens.",
}


class RiverStatLogger(StatLoggerBase):
    """Does nothing for models of other architectures."""

    def __init__(self, vllm_config: VllmConfig, engine_index: int = 0) -> None:
        model = vllm_config.model_config
        self._totals = None
        if ARCHITECTURE in model.architectures:
            self._totals = statistics.open_totals()
        self._engine, self._seen = engine_index, np.zeros(2, np.int64)
        served = model.served_model_name
        self._name = str(served[0] if isinstance(served, list) else served)

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        if self._totals is None:
            return
        now = np.array(self._totals[self._engine])
        for counter, more in zip(_counters(), now - self._seen, strict=True):
            counter.labels(self._name).inc(int(more))
        self._seen = now

    def log_engine_initialized(self) -> None:
        return


def _counters() -> list[Counter]:
    """One a process, whatever the number of engines."""
    if not _made:
        _made.extend(
            Counter(name, about, ["model_name"], registry=REGISTRY)
            for name, about in COUNTERS.items()
        )
    return _made


_made: list[Counter] = []
