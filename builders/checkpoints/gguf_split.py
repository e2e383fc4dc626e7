"""A model in several GGUF files: name-00001-of-00003.gguf, of which the first has the metadata."""

import re
from pathlib import Path

from river_trt.errors import CheckpointError

SPLIT = re.compile(r"(.+)-(\d{5})-of-(\d{5})")


def split_files(file: Path) -> list[Path]:
    """All files of the model that `file` is or belongs to, in order; CheckpointError lacks one."""
    match = SPLIT.fullmatch(file.stem)
    if match is None:
        return [file]
    name, count = match[1], int(match[3])
    files = [file.with_name(f"{name}-{n:05}-of-{count:05}.gguf") for n in range(1, count + 1)]
    for part in files:
        if not part.is_file():
            raise CheckpointError(f"{file} is one of {count} files, and {part.name} is missing")
    return files


def split_name(file: Path) -> str:
    """The model's name, whichever of its files it is."""
    match = SPLIT.fullmatch(file.stem)
    return file.stem if match is None else match[1]
