"""A River engine for ONNX Runtime: trace, lower, then fill the weights file layer by layer."""

from dataclasses import replace
from importlib.metadata import version

import torch

from builders.job import Banks, BuildJob
from builders.layouts.byte_counts import byte_counts, with_river_head
from builders.layouts.modules import BackboneFormat
from builders.layouts.panels import (
    panel_head_tensors,
    panel_layer_tensors,
    panel_river_head_tensors,
)
from builders.layouts.weights_file import WeightsWriter
from builders.onnxruntime.emit import ACCURACY_LEVELS
from builders.onnxruntime.layer_tensors import (
    head_tensors,
    layer_tensors,
    stored,
)
from builders.onnxruntime.lm_head import HeadPrecision
from builders.onnxruntime.lowering import LoweringOptions, lower
from builders.onnxruntime.native import choose_kernels, lower_native
from builders.onnxruntime.options import OnnxRuntimeOptions
from builders.onnxruntime.river_head import HeadInputs, frequent_tokens, quantise_rare
from builders.position_tables import position_tables
from builders.quantisers.integer import quantise_integer
from builders.recipes import Recipe
from builders.river_bank import river_format, stream_layers
from builders.source import ModelSource
from builders.tracing import to_onnx, trace
from builders.weights import SharedWeights
from river_trt.backends.onnxruntime import WEIGHTS_FILE
from river_trt.errors import CheckpointError, RiverError
from river_trt.manifest import BackendInfo, Manifest, PrecisionInfo
from river_trt.native_library import ABI_VERSION, native_library

ENGINE_FILE = "model.onnx"
BACKBONE_NAMES = {8: "int8", 16: "float16", 32: "float32"}
FULL_BITS = 8  # of a head that has a river
HEAD_DIM_MULTIPLE = 16  # GroupQueryAttention with rotary embeddings takes no other head_dim


def build_engine(job: BuildJob) -> Manifest:
    """Fill the job's directory with a complete engine and return its manifest.

    Raises CheckpointError for a model that ONNX Runtime cannot run, RiverError for the options.
    """
    source, recipe, directory = job.source, job.recipe, job.directory
    config = source.config
    asked = recipe.options_as(OnnxRuntimeOptions)
    activation = asked.river_activation
    native = choose_kernels(config, asked.kernels) == "native"
    if not native:
        _check_head_dim(source)
    asked_for = asked.precision(native)
    backbone = BackboneFormat(asked_for.backbone_bits, recipe.group_size)
    if backbone.bits == 16 and not native:
        raise RiverError(
            "--backbone-bits 16 needs the native kernels; ONNX Runtime's own would widen the "
            "weights to 32 bits: choose 8 or 32"
        )
    kv_cache = asked_for.kv_cache
    if kv_cache != "float32" and not native:
        raise RiverError(
            f"--kv-cache {kv_cache} needs the native kernels; ONNX Runtime's own attention takes "
            "float32 only: leave it out or choose float32"
        )
    if native:
        # Without a compiler, say so now and not when the engine is loaded.
        native_library(job.progress)
    quantiser = job.quantiser()
    river = river_format(config, quantiser, recipe.group_size, recipe.symmetric)
    shared = source.shared()
    head = _head_precision(source, recipe, shared, asked_for.lm_head_bits)
    if asked.river_head_bits is not None:
        _check_river_head(native, head, job.banks)
        head = replace(head, frequent=frequent_tokens(config.vocab_size))
    job.write_tokenizer()
    calibration = job.read_calibration(quantiser)
    watch, head_inputs = job.watch, None
    if head.frequent:
        watch = head_inputs = HeadInputs(None if calibration else job.text_for_layers(), job.watch)

    job.progress("tracing", 0, 1)
    model = to_onnx(trace(config, river, recipe.max_seq_len), config.num_layers)
    options = LoweringOptions(
        head, activation, WEIGHTS_FILE, recipe.group_size, job.banks, backbone.bits, kv_cache
    )
    graph, layout = (lower_native if native else lower)(model, options)
    (directory / ENGINE_FILE).write_bytes(graph.SerializeToString())
    job.progress("tracing", 1, 1)

    with WeightsWriter(layout, directory) as weights:
        _write_shared(weights, source, shared, head, recipe.max_seq_len, native)
        banks = stream_layers(
            source,
            quantiser,
            shared,
            calibration.token_ids if calibration else None,
            watch,
            job.progress,
        )
        for index, layer in enumerate(banks):
            tensors = panel_layer_tensors if native else layer_tensors
            weights.write_planned(tensors(index, layer.weights, layer.river, backbone))
            job.progress("quantising", index + 1, config.num_layers)
        if head_inputs is not None:
            rows = head_inputs.rows(config, shared)
            rare = quantise_rare(shared.lm_head, rows, head.frequent, recipe.group_size)
            weights.write_planned(panel_river_head_tensors(rare))

    backend = BackendInfo(
        "onnxruntime",
        version("onnxruntime"),
        recipe.target,
        kernels="native" if native else "onnxruntime",
        kernels_abi=ABI_VERSION if native else None,
    )
    precision = PrecisionInfo(
        BACKBONE_NAMES[backbone.bits], head.bits, kv_cache, activation, asked.river_head_bits
    )
    counts = byte_counts(layout.sizes, config.num_layers, config.vocab_size, job.banks)
    if head.frequent:
        frequent = counts.lm_head * head.frequent // config.vocab_size
        counts = with_river_head(counts, layout.sizes, frequent)
    return job.write_manifest(backend, precision, calibration, counts, ENGINE_FILE)


def _check_river_head(native: bool, head: HeadPrecision, banks: Banks) -> None:
    """RiverError where no token could use the head's river."""
    if not native:
        raise RiverError(
            "--river-head-bits needs the native kernels; ONNX Runtime's own have one head for both "
            "banks: leave it out"
        )
    if banks != "both":
        raise RiverError(
            f"--river-head-bits is for tokens that leave the backbone, and --banks {banks} has "
            "one bank alone: leave one of the two out"
        )
    if head.bits != FULL_BITS:
        raise RiverError(
            f"--river-head-bits goes with an LM head of {FULL_BITS} bits, which it is read beside, "
            f"not with one of {head.bits}: add --lm-head-bits {FULL_BITS}"
        )


def _check_head_dim(source: ModelSource) -> None:
    """GroupQueryAttention's limits, which it only states when it runs."""
    config, name = source.config, source.checkpoint.name
    if config.head_dim % HEAD_DIM_MULTIPLE:
        raise CheckpointError(
            f"{name} has a head_dim of {config.head_dim}, but ONNX Runtime's "
            f"attention takes multiples of {HEAD_DIM_MULTIPLE} only"
        )
    for rope in config.ropes:
        rotary_dim = 2 * len(rope.inv_freq)
        if rotary_dim % HEAD_DIM_MULTIPLE:
            raise CheckpointError(
                f"{name} rotates {rotary_dim} values of each head, but ONNX Runtime's "
                f"attention takes multiples of {HEAD_DIM_MULTIPLE} only"
            )


def _head_precision(
    source: ModelSource, recipe: Recipe, shared: SharedWeights, asked_bits: int | None
) -> HeadPrecision:
    """The width of the head that is asked for, or the checkpoint's own dtype."""
    stored_dtype = shared.lm_head.dtype
    activation = recipe.options_as(OnnxRuntimeOptions).river_activation
    bits = asked_bits or 8 * stored_dtype.itemsize
    dtypes = {32: torch.float32, 16: torch.float16}
    keeps = asked_bits is None or bits == 8 * stored_dtype.itemsize
    return HeadPrecision(
        bits=bits,
        group_size=recipe.group_size,
        embedding_dtype=shared.embedding.dtype,
        head_dtype=stored_dtype if keeps else dtypes.get(bits, torch.float32),
        tied=source.config.tie_embeddings,
        accuracy_level=ACCURACY_LEVELS[activation],
    )


def _write_shared(
    weights: WeightsWriter,
    source: ModelSource,
    shared: SharedWeights,
    head: HeadPrecision,
    max_seq_len: int,
    native: bool,
) -> None:
    tables = position_tables(source.config, max_seq_len)
    weights.write_planned({name: table.numpy() for name, table in tables.items()})
    weights.write("norm.weight", shared.final_norm.numpy())
    weights.write("embedding", stored(shared.embedding))
    if head.bits < 16:
        quantised = quantise_integer(shared.lm_head, head.bits, head.group_size)
        tensors = panel_head_tensors if native else head_tensors
        weights.write_planned(tensors(quantised))
    elif not head.is_embedding:
        weights.write("lm_head", stored(shared.lm_head.to(head.head_dtype)))
