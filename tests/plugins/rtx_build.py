"""Build one ONNX file with TensorRT-RTX and the plugin library: a process of its own.

usage: rtx_build.py LIBRARY MODEL RESULT.json [aliased]. A parser or builder that aborts kills this
process only; what it logged is on stdout by then.
"""

import json
import sys
from pathlib import Path

import tensorrt_rtx as trt

BATCH, SEQ = 8, 64


class Logger(trt.ILogger):
    def __init__(self) -> None:
        trt.ILogger.__init__(self)

    def log(self, severity, message) -> None:
        if severity <= trt.ILogger.Severity.WARNING:
            print(f"{severity.name}: {message}", flush=True)


def main(library: str, model: str, result: str, *options: str) -> int:
    logger = Logger()
    registry = trt.get_plugin_registry()
    builder = trt.Builder(logger)
    registry.load_library(library)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(model).read_bytes()):
        for i in range(parser.num_errors):
            print(f"PARSER: {parser.get_error(i)}", flush=True)
        return 1
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    plugins = [layer.name for layer in layers if layer.type == trt.LayerType.PLUGIN_V3]
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        if -1 in tuple(tensor.shape):
            shapes = [resolve(tensor, batch, seq) for batch, seq in ((1, 1), (1, 1), (BATCH, SEQ))]
            profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM80, 0)
    if "aliased" in options:
        config.set_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return 1
    Path(result).write_text(json.dumps({"plugins": plugins, "engine_bytes": engine.nbytes}))
    return 0


def resolve(tensor: trt.ITensor, batch: int, seq: int) -> tuple[int, ...]:
    sizes = iter((batch, seq))
    return tuple(next(sizes) if size == -1 else size for size in tensor.shape)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
