"""hatch's hooks: the README as an index shows it, and the native kernels in a platform wheel.

RIVER_TRT_PREBUILT=1 pip wheel .    compiles plugins/cpu into the wheel (docs/native-kernels.md)
"""

import os
import re
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

SWITCH = "RIVER_TRT_PREBUILT"
FOLDER = "river_trt/_prebuilt"  # river_trt.compiled_library looks there first


class Readme(MetadataHookInterface):
    """README.md without links to pages that only the repository has."""

    def update(self, metadata: dict[str, Any]) -> None:
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": without_pages(text)}


class NativeKernels(BuildHookInterface):  # type: ignore[type-arg]
    """With the switch set, a wheel of this platform that holds the CPU kernels compiled."""

    def dependencies(self) -> list[str]:
        """What `river_trt` imports, for a build in isolation."""
        if not _wanted():
            return []
        project = tomllib.loads((Path(self.root) / "pyproject.toml").read_text(encoding="utf-8"))
        return list(project["project"]["dependencies"])

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not _wanted() or self.target_name != "wheel" or version == "editable":
            return
        sys.path.insert(0, self.root)
        from river_trt.native_library import native_library

        library = native_library()
        build_data["force_include"][str(library)] = f"{FOLDER}/{library.name}"
        platform = re.sub(r"[-.]", "_", sysconfig.get_platform())
        build_data |= {"pure_python": False, "tag": f"py3-none-{platform}"}


def without_pages(text: str) -> str:
    """Markdown whose relative links, dead outside the repository, are plain text with the path."""
    text = re.sub(r"\[`?([^\]`]+)`?\]\(\1\)", r"`\1`", text)
    return re.sub(r"\[([^\]]+)\]\((?![a-z]+:|#)([^)#]+)[^)]*\)", r"\1 (`\2`)", text)


def _wanted() -> bool:
    return os.environ.get(SWITCH) == "1"
