"""The graph of a model for TensorRT on disk: model.onnx, and its weights filled layer by layer."""

from dataclasses import dataclass
from pathlib import Path

from builders.calibration_text import CalibrationText
from builders.job import BuildJob
from builders.layouts.weights_file import WeightsLayout, WeightsWriter
from builders.narrowing import to_array
from builders.position_tables import position_tables
from builders.river_bank import river_format, stream_layers
from builders.tensorrt.lowering import GraphOptions, TensorRTLowering
from builders.tensorrt.options import TensorRTOptions
from builders.tensorrt.plugin_graph import PluginLowering
from builders.tensorrt.portable_graph import PortableLowering
from builders.tensorrt.scope import DTYPES
from builders.tensorrt.weights import head_arrays, layer_arrays
from builders.tracing import to_onnx, trace
from river_trt.manifest import TensorRTMode

GRAPH_FILE = "model.onnx"
WEIGHTS_FILE = "model.data"
LOWERINGS: dict[TensorRTMode, type[TensorRTLowering]] = {
    "plugin": PluginLowering,
    "portable": PortableLowering,
}


@dataclass(frozen=True, slots=True)
class WrittenGraph:
    """What the files hold, and the text that the quantiser saw."""

    layout: WeightsLayout
    calibration: CalibrationText | None


def write_graph(
    job: BuildJob, options: TensorRTOptions, directory: Path, layer_outputs: bool = False
) -> WrittenGraph:
    """Write GRAPH_FILE and WEIGHTS_FILE; one layer's weights are in memory at a time."""
    source, recipe = job.source, job.recipe
    config, dtype = source.config, DTYPES[options.dtype]
    quantiser = job.quantiser()
    shared = source.shared()
    calibration = job.read_calibration(quantiser)
    job.progress("tracing", 0, 1)
    river = river_format(config, quantiser, recipe.group_size, recipe.symmetric)
    model = to_onnx(trace(config, river, recipe.max_seq_len), config.num_layers)
    graph, layout = (
        LOWERINGS[options.network]
        .of(
            model,
            GraphOptions(
                dtype=dtype,
                weights_file=WEIGHTS_FILE,
                tied=config.tie_embeddings,
                banks=job.banks,
                # IKVCacheUpdateLayer wants the number of slots when the engine is built.
                cache_length=recipe.max_seq_len if options.fixed_cache else None,
                head_group_size=recipe.group_size if options.lm_head_bits == 4 else None,
                native_attention=options.attention == "native",
                layer_outputs=layer_outputs,
            ),
        )
        .lower()
    )
    (directory / GRAPH_FILE).write_bytes(graph.SerializeToString())
    job.progress("tracing", 1, 1)
    with WeightsWriter(layout, directory) as weights:
        for name, table in position_tables(config, recipe.max_seq_len).items():
            tables = {name: to_array(table, dtype, name), f"{name}_float32": table.numpy()}
            weights.write_planned(tables)
        if options.lm_head_bits == 4:
            head = head_arrays(shared.lm_head, recipe.group_size, dtype, options.network)
            weights.write_planned(head)
        weights.write_planned(
            {
                "norm.weight": to_array(shared.final_norm, dtype, "norm.weight"),
                "embedding": to_array(shared.embedding, dtype, "embedding"),
                "lm_head": to_array(shared.lm_head, dtype, "lm_head"),
            }
        )
        ids = calibration.token_ids if calibration else None
        banks = stream_layers(source, quantiser, shared, ids, job.watch, job.progress)
        for index, layer in enumerate(banks):
            weights.write_planned(layer_arrays(index, layer, dtype, options.network))
            job.progress("quantising", index + 1, config.num_layers)
    return WrittenGraph(layout, calibration)
