"""Continuous batching: requests join and leave between the decode steps of one engine."""

from river_trt.serving.errors import RejectedError, ServerClosedError
from river_trt.serving.metrics import ServingMetrics

__all__ = ["RejectedError", "ServerClosedError", "ServingMetrics"]
