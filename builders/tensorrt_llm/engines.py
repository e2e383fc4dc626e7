"""A checkpoint's rank{r}.engine, and the engine directory around them: TensorRT-LLM and a GPU.

Not run by this project's tests: they build the network of model.py over a double.
"""

import dataclasses
import datetime
import json
import shutil
from pathlib import Path

from builders.tensorrt_llm.river_section import RiverSection
from river_trt.backends.tensorrt_llm import (
    CONFIG_FILE,
    gpu_compute_capability,
    load_plugin,
    require_tensorrt_llm,
)
from river_trt.engine_dir import hash_files, read_engine_dir, write_manifest
from river_trt.errors import RiverError
from river_trt.manifest import BackendInfo, Manifest
from river_trt.progress import Progress

# What gpt_attention has decode kernels for: in all, and with a soft cap on the scores.
HEAD_SIZES = (32, 48, 64, 80, 96, 104, 112, 128, 144, 160, 192, 224, 256)
CAPPED_HEAD_SIZES = (128, 256)
# Of a network of ours; trtllm-build takes others (docs/tensorrt-llm.md).
MAX_BATCH_SIZE, MAX_NUM_TOKENS = 64, 8192


def build_engine_dir(checkpoint: Path, out: Path, progress: Progress) -> Manifest:
    """Build every rank's engine of `checkpoint` into the empty directory `out`.

    Raises MissingDependencyError without TensorRT-LLM, EngineError for a damaged checkpoint,
    RiverError for a model that gpt_attention has no kernels for.
    """
    installed = require_tensorrt_llm()
    manifest = read_engine_dir(checkpoint)
    shape = manifest.model.shape
    if shape.head_dim not in HEAD_SIZES:
        raise RiverError(
            f"{manifest.model.name} has a head_dim of {shape.head_dim}, but TensorRT-LLM's "
            f"attention takes {', '.join(map(str, HEAD_SIZES))}"
        )
    if shape.head_dim not in CAPPED_HEAD_SIZES and _has_soft_cap(checkpoint):
        raise RiverError(
            f"{manifest.model.name} caps its attention scores at a head_dim of {shape.head_dim}, "
            f"but TensorRT-LLM does that at {', '.join(map(str, CAPPED_HEAD_SIZES))} only"
        )
    ranks = sum(name.endswith(".safetensors") for name in manifest.files)
    _build_ranks(checkpoint, out, ranks, shape.max_seq_len, progress)
    for name in manifest.files:
        if name != CONFIG_FILE and not name.endswith(".safetensors"):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint / name, out / name)
    built = dataclasses.replace(
        manifest,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        backend=BackendInfo("tensorrt-llm", installed, f"tp{ranks}", gpu_compute_capability()),
        engine_file="rank0.engine",
        files=hash_files(out),
    )
    write_manifest(out, built)
    return built


def _has_soft_cap(checkpoint: Path) -> bool:
    config = json.loads((checkpoint / CONFIG_FILE).read_text(encoding="utf-8"))
    return RiverSection.from_dict(config["river"]).attention_softcap is not None


def _build_ranks(
    checkpoint: Path, out: Path, ranks: int, max_seq_len: int, progress: Progress
) -> None:
    try:
        from tensorrt_llm.builder import BuildConfig, build

        from builders.tensorrt_llm.model import RiverForCausalLM
    except ImportError as error:
        raise RiverError(f"tensorrt_llm is installed but cannot be imported: {error}") from error
    load_plugin()
    for rank in range(ranks):
        progress("building", rank, ranks)
        model = RiverForCausalLM.from_checkpoint(str(checkpoint), rank=rank)
        # The cache is paged where none is named. Longer prompts come in chunks.
        options = BuildConfig(
            max_batch_size=MAX_BATCH_SIZE,
            max_input_len=max_seq_len,
            max_seq_len=max_seq_len,
            max_num_tokens=MAX_NUM_TOKENS,
        )
        build(model, options).save(str(out))
    progress("building", ranks, ranks)
