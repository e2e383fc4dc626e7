"""The stand-in engine of tests/river_trt."""

from tests.river_trt.conftest import make_engine

__all__ = ["make_engine"]
