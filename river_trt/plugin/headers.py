"""Where the headers of TensorRT and of torch are, found without importing either."""

import importlib.metadata
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path

from river_trt.errors import MissingDependencyError, RiverError

TENSORRT_HEADER = "NvInferRuntime.h"
# Debian packages, then the places that NVIDIA's tar files and containers use.
SYSTEM_FOLDERS = (
    "/usr/include/x86_64-linux-gnu",
    "/usr/include/aarch64-linux-gnu",
    "/usr/include",
    "/usr/local/tensorrt/include",
    "/usr/local/cuda/include",
)
TENSORRT_MAJORS = (10, 11)


@dataclass(frozen=True, slots=True)
class Headers:
    """A library's headers: `root` is what CMake is given."""

    library: str  # tensorrt or torch
    root: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


def find_tensorrt_headers(root: Path | None = None) -> Headers:
    """`root`, else TENSORRT_ROOT, else an installed TensorRT, else PyPI's kernel-lens.

    Raises RiverError for a root without headers or of an unknown major, MissingDependencyError
    where there are none at all.
    """
    given = root or (Path(os.environ["TENSORRT_ROOT"]) if os.environ.get("TENSORRT_ROOT") else None)
    if given is not None:
        for folder in (given / "include", given):
            if (folder / TENSORRT_HEADER).is_file():
                return _tensorrt(folder)
        raise RiverError(f"TensorRT root {given} holds no include/{TENSORRT_HEADER}")
    for name in SYSTEM_FOLDERS:
        if Path(name, TENSORRT_HEADER).is_file():
            return _tensorrt(Path(name))
    package = _package("kernel_lens", "include/tensorrt")
    if package is not None and (package / TENSORRT_HEADER).is_file():
        return _tensorrt(package)
    raise MissingDependencyError(
        "no TensorRT headers on this machine; set TENSORRT_ROOT to a TensorRT, or take the "
        "headers alone: pip install --no-deps kernel-lens==2.0.1"
    )


def find_torch_headers() -> Headers:
    """The torch of this Python. Raises MissingDependencyError where there is none."""
    root = _package("torch", "")
    if root is None or not (root / "include/torch/library.h").is_file():
        raise MissingDependencyError("no torch in this Python; pip install torch")
    return Headers("torch", root, importlib.metadata.version("torch"))


def _tensorrt(folder: Path) -> Headers:
    text = (folder / "NvInferVersion.h").read_text(encoding="utf-8", errors="replace")
    numbers = []
    for part in ("MAJOR", "MINOR", "PATCH"):
        # 10.x defines TRT_MAJOR_ENTERPRISE and NV_TENSORRT_MAJOR from it; older ones the latter.
        match = re.search(rf"#define TRT_{part}_ENTERPRISE (\d+)", text) or re.search(
            rf"#define NV_TENSORRT_{part} (\d+)", text
        )
        if match is None:
            raise RiverError(f"{folder / 'NvInferVersion.h'} defines no NV_TENSORRT_{part}")
        numbers.append(match[1])
    headers = Headers("tensorrt", folder, ".".join(numbers))
    if headers.major not in TENSORRT_MAJORS:
        raise RiverError(
            f"TensorRT {headers.version} in {folder}: the plugin is for "
            f"TensorRT {' and '.join(map(str, TENSORRT_MAJORS))}"
        )
    return headers


def _package(name: str, inside: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / inside
