"""Runs the application with uvicorn."""

import logging
import socket
import sys

import uvicorn

from river_trt.engine import Engine
from river_trt.errors import RiverError
from river_trt.openai.app import make_app
from river_trt.openai.settings import ServeSettings


def open_socket(settings: ServeSettings) -> socket.socket:
    """Bound and not yet listening; RiverError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
    except (OSError, UnicodeError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or error
        raise RiverError(f"cannot listen on {settings.host}:{settings.port}: {reason}") from error
    return bound


def serve(settings: ServeSettings, engines: dict[str, Engine], bound: socket.socket) -> None:
    """Until a signal ends it: then no new request is taken, and open ones have their time."""
    _log_to_stderr()
    config = uvicorn.Config(
        make_app(settings, engines),
        log_config=None,
        access_log=False,  # the gate writes its own
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_seconds)),
    )
    uvicorn.Server(config).run([bound])


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name, level in (("river_trt", logging.INFO), ("uvicorn.error", logging.WARNING)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
