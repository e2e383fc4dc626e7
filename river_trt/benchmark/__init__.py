"""Measure engines, exit policies and other runtimes beside each other, in one run."""

from river_trt.benchmark.arms import ALL_RIVER, ENGINE_POLICY, FULL_DEPTH, Arm
from river_trt.benchmark.measure import Contestant, EngineArm, Plan, Round, alternate, measure
from river_trt.benchmark.reads import cache_bytes, prefill_operations, weight_bytes
from river_trt.benchmark.summary import ArmSummary, Spread, mixed_loss, summarise

__all__ = [
    "ALL_RIVER",
    "ENGINE_POLICY",
    "FULL_DEPTH",
    "Arm",
    "ArmSummary",
    "Contestant",
    "EngineArm",
    "Plan",
    "Round",
    "Spread",
    "alternate",
    "cache_bytes",
    "measure",
    "mixed_loss",
    "prefill_operations",
    "summarise",
    "weight_bytes",
]
