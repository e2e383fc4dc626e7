"""Checkpoint reading: `open_checkpoint` takes whatever `--model` takes."""

from pathlib import Path

from builders.checkpoints.base import Checkpoint
from river_trt.errors import CheckpointError

__all__ = ["Checkpoint", "open_checkpoint"]


def open_checkpoint(model: str, *, allow_download: bool = True) -> Checkpoint:
    """Open a model directory, a .gguf file, `demo`, or a hub id (`organisation/name`).

    A local directory wins over a hub id of the same name. Raises CheckpointError, in one sentence,
    for anything that is missing, damaged, pickled, or cannot be downloaded.
    """
    path = Path(model)
    if path.is_dir():
        from builders.checkpoints.safetensors_directory import SafetensorsDirectory

        return SafetensorsDirectory(path)
    if model == "demo":
        from builders.checkpoints.demo import demo_file

        path = demo_file()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise CheckpointError(f"no such GGUF file: {model}")
        from builders.checkpoints.gguf_file import GgufFile

        return GgufFile(path)
    if path.exists():
        raise CheckpointError(f"{model} is a file, but neither a model directory nor a .gguf file")

    from builders.checkpoints.hub import download, is_hub_id

    if not is_hub_id(model):
        raise CheckpointError(f"no such model directory: {model}")
    from builders.checkpoints.safetensors_directory import SafetensorsDirectory

    return SafetensorsDirectory(download(model, allow_download), name=model)
