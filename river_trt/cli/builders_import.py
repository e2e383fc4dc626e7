"""Commands whose work is the builders' import them when called, and say how to install them."""

from collections.abc import Iterator
from contextlib import contextmanager

from river_trt.errors import MissingDependencyError


@contextmanager
def needs_extra(doing: str, extra: str) -> Iterator[None]:
    """An ImportError inside becomes the pip line of the extra."""
    try:
        yield
    except ImportError as error:
        missing = (error.name or "a package").partition(".")[0]
        if missing == "river_trt" or (error.name or "").startswith("builders."):
            raise  # a bug of ours: no pip command would mend it
        raise MissingDependencyError(
            f'{doing} needs {missing}, which is not installed: pip install "river-trt[{extra}]"'
        ) from error
