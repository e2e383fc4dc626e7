"""The two libraries: what each is compiled from, and which headers it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from river_trt.errors import RiverError
from river_trt.plugin.headers import Headers, find_tensorrt_headers, find_torch_headers


@dataclass(frozen=True, slots=True)
class Part:
    """One of the libraries that plugins/ is compiled to."""

    name: str
    target: str  # of CMake; the library is lib<target>.so
    folders: tuple[str, ...]  # of plugins/ that it is compiled from
    root_option: str  # CMake variable that takes Headers.root
    find_headers: Callable[[Path | None], Headers]

    def abi(self, version: str) -> str:
        """Versions of TensorRT or torch with the same value load the same library."""
        # torch promises nothing between minor versions, TensorRT nothing between majors.
        numbers = version.split("+")[0].split(".")
        return numbers[0] if self.name == "tensorrt" else ".".join(numbers[:2])


def _torch(root: Path | None) -> Headers:
    if root is not None:
        raise RiverError("--tensorrt-root is for the part tensorrt; torch is this Python's own")
    return find_torch_headers()


PARTS = {
    part.name: part
    for part in (
        Part(
            "tensorrt",
            "river_trt_plugin",
            ("cmake", "kernels", "tensorrt"),
            "TENSORRT_ROOT",
            find_tensorrt_headers,
        ),
        Part("torch", "river_trt_torch", ("cmake", "kernels", "torch"), "TORCH_ROOT", _torch),
    )
}


def find_part(name: str) -> Part:
    """By name; RiverError lists the parts there are."""
    if name not in PARTS:
        raise RiverError(f"unknown part {name!r}; the plugin's parts are {', '.join(PARTS)}")
    return PARTS[name]
