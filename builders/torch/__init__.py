"""Backend torch: the traced program as a list of operator calls (river_trt/backends/torch)."""

from builders.aotinductor.build import build_engine

__all__ = ["build_engine"]
