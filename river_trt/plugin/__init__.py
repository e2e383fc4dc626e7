"""The native libraries of plugins/: TensorRT plugins and torch operators, built where they run."""

from river_trt.plugin.build import LibraryOptions, build_library, built_library
from river_trt.plugin.parts import PARTS

__all__ = ["PARTS", "LibraryOptions", "build_library", "built_library"]
