"""What becomes of an exception that nobody foresaw: an answer, and a traceback in the log."""

import logging
import traceback

from river_trt.errors import EngineError, RiverError

_log = logging.getLogger("river_trt")
_SHUTDOWN = (KeyboardInterrupt, SystemExit, GeneratorExit)


class InternalError(RiverError):
    """A fault of river-trt, or of a library that it calls, that ended one request."""


def contained(error: BaseException) -> RiverError:
    """The answer to the request that raised `error`; call it where `error` was caught.

    Foreign libraries raise what is no Exception too (a panic of Rust's bindings is a
    BaseException), so callers catch BaseException. What ends our own process is raised again.
    """
    if isinstance(error, _SHUTDOWN):
        raise error
    if isinstance(error, RiverError):
        return error
    log_fault(logging.ERROR, "an internal error ended a request, the others go on", error)
    return InternalError(f"an internal error ended this request: {describe(error)}")


def log_fault(level: int, what: str, error: BaseException) -> None:
    """`what` and the traceback, in characters that every log takes: a request may hold others."""
    trace = "".join(traceback.format_exception(error))
    _log.log(level, "%s\n%s", what, trace.encode("utf-8", "backslashreplace").decode())


def row_failure(error: BaseException) -> EngineError:
    """As `contained`, for a row that failed inside a step."""
    answer = contained(error)
    return answer if isinstance(answer, EngineError) else EngineError(str(answer))


def describe(error: BaseException) -> str:
    """Type and first line, so that no message is as long as the input that caused it."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]:.200}" if lines else type(error).__name__
