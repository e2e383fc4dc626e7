"""Both halves in one go, where one environment has them: convert, then build the engines."""

import dataclasses
import shutil

from builders.job import BuildJob
from builders.tensorrt_llm import convert
from builders.tensorrt_llm.engines import build_engine_dir
from river_trt.backends.tensorrt_llm import require_tensorrt_llm
from river_trt.manifest import Manifest


def build_engine(job: BuildJob) -> Manifest:
    """Fill the job's directory with an engine; errors as convert.py's and engines.py's."""
    require_tensorrt_llm()  # before the conversion, which takes a while
    checkpoint = job.directory.with_name(f"{job.directory.name}.checkpoint")
    checkpoint.mkdir()
    try:
        convert.build_engine(dataclasses.replace(job, directory=checkpoint))
        return build_engine_dir(checkpoint, job.directory, job.progress)
    finally:
        shutil.rmtree(checkpoint, ignore_errors=True)
