"""ONNX Runtime on the CPU: the default backend."""

from river_trt.backends.onnxruntime.session import (
    WEIGHTS_FILE,
    check_abi,
    check_version,
    open_session,
)

__all__ = ["WEIGHTS_FILE", "check_abi", "check_version", "open_session"]
