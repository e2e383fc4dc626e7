"""Continuous batching: requests join and leave between the decode steps of one engine."""

from river_trt.faults import InternalError
from river_trt.serving.errors import RejectedError, ServerClosedError
from river_trt.serving.metrics import ServingMetrics

__all__ = ["InternalError", "RejectedError", "ServerClosedError", "ServingMetrics"]
