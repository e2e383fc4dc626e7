"""An engine as the Hugging Face cache holds it."""

import os
from pathlib import Path

from river_trt.engine_dir import sha256


def in_hub_cache(engine: Path, cache: Path, inside: str = "") -> Path:
    """The engine as `hf download` leaves it: links into the blobs of its repository.

    inside: folder of the repository that holds the engine.
    """
    repository = cache / "models--me--engine"
    (repository / "blobs").mkdir(parents=True)
    snapshot = repository / "snapshots" / ("c" * 40) / inside
    snapshot.mkdir(parents=True)
    for file in engine.iterdir():
        blob = repository / "blobs" / sha256(file)
        file.rename(blob)
        (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot
