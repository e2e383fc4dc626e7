"""What TensorRT made of the network: the layers of the engine itself, read on a GPU."""

import json
from pathlib import Path

from river_trt.backends.tensorrt.opening import open_engine
from river_trt.manifest import Manifest


def engine_layers(directory: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """(name, type) of every layer, fused as it runs. Raises what `open_engine` does."""
    opened = open_engine(directory, manifest)
    inspector = opened.engine.create_engine_inspector()
    text = inspector.get_engine_information(opened.trt.LayerInformationFormat.JSON)
    layers = json.loads(text)["Layers"]
    # An engine that was built without detail has names alone.
    return [
        (layer, "") if isinstance(layer, str) else (layer["Name"], layer.get("LayerType", ""))
        for layer in layers
    ]
