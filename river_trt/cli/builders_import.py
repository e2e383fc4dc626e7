"""Commands whose work is the builders' import them when called, and say how to install them."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from river_trt.errors import MissingDependencyError, RiverError
from river_trt.origin import this_build

BESIDE = Path(__file__).parents[2]  # where `river_trt` and `builders` lie


@contextmanager
def needs_extra(doing: str, extra: str) -> Iterator[None]:
    """An ImportError inside becomes the pip line of the extra.

    Raises RiverError where another package answers to the name `builders`.
    """
    _check_builders()
    try:
        yield
    except ImportError as error:
        missing = (error.name or "a package").partition(".")[0]
        if missing == "river_trt" or (error.name or "").startswith("builders."):
            raise  # a bug of ours: no pip command would mend it
        raise MissingDependencyError(
            f"{doing} needs {missing}, which is not installed: {this_build().install(extra)}"
        ) from error


def _check_builders() -> None:
    spec = find_spec("builders")
    if spec is not None and spec.origin is not None and Path(spec.origin).parents[1] != BESIDE:
        raise RiverError(
            f"{spec.origin} hides river-trt's package `builders` in {BESIDE}: "
            "take it off PYTHONPATH, or use an environment without it"
        )
