"""A local Triton server of one engine, gone when its block ends: for measuring."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from river_trt.triton.local_server import LocalServer, ServerOptions
from river_trt.triton.repository import ExportOptions, export
from river_trt.triton.settings import ModelSettings

READY_SECONDS = 120


@contextmanager
def temporary_server(settings: ModelSettings, python: Path) -> Iterator[LocalServer]:
    """python: that of the environment that scripts/setup_triton.sh makes."""
    with tempfile.TemporaryDirectory() as folder:
        export(ExportOptions(settings, Path(folder), engine_files="reference"))
        options = ServerOptions(
            Path(folder),
            http_port=0,
            grpc_port=0,
            metrics_port=0,
            log=Path(folder) / "log",
            python=python,
        )
        with LocalServer(options) as server:
            server.wait_until_ready(READY_SECONDS)
            yield server
