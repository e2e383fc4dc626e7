"""`river-trt build` of a converted checkpoint, in an environment without river-trt[build]."""

from pathlib import Path
from typing import Any

from builders.tensorrt_llm.engines import build_engine_dir
from river_trt.backends.tensorrt_llm import require_tensorrt_llm
from river_trt.engine_dir import write_engine_dir
from river_trt.errors import RiverError
from river_trt.manifest import Manifest
from river_trt.progress import Progress

TAKES = {"model", "out", "force", "backend"}


def build_from_checkpoint(options: dict[str, Any], progress: Progress) -> Manifest:
    """options: BuildOptions' by name. All but where to write was decided by the conversion."""
    if left := sorted(options.keys() - TAKES):
        raise RiverError(
            f"{left[0]} was decided when {options['model']} was converted; leave it out or convert "
            "again"
        )
    if options.get("backend", "tensorrt-llm") != "tensorrt-llm":
        raise RiverError(
            f"{options['model']} is a TensorRT-LLM checkpoint, not one of {options['backend']}"
        )
    require_tensorrt_llm()
    with write_engine_dir(options["out"], options.get("force", False)) as directory:
        return build_engine_dir(Path(options["model"]), directory, progress)
