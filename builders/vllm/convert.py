"""A model as a River checkpoint: any machine, no vLLM, one layer in memory at a time.

<out>/config.json, model.safetensors, tokenizer files   what vLLM reads
<out>/manifest.json                                     what `river-trt inspect` reads
"""

import dataclasses
import json
from typing import Any

import torch
from torch import Tensor

from builders.decoder import RiverFormat
from builders.job import BuildJob
from builders.layouts.byte_counts import byte_counts
from builders.river_bank import LayerBanks, river_format, stream_layers
from builders.safetensors_file import Parameter, SafetensorsFile, num_bytes
from builders.source import ModelSource
from builders.vllm.options import RiverCheckpointOptions
from builders.weights import SharedWeights
from river_trt.errors import RiverError
from river_trt.manifest import BackendInfo, Manifest, PrecisionInfo, TextInfo
from river_trt.river_checkpoint import (
    ARCHITECTURE,
    BACKEND,
    CONFIG_FILE,
    DIRECTIONS,
    EMBEDDING,
    FINAL_NORM,
    FORMAT,
    LINEARS,
    LM_HEAD,
    NORMS,
    SECTION,
    WEIGHTS_FILE,
    LayerInfo,
    RiverCheckpoint,
    RopeInfo,
    layer_prefix,
)
from river_trt.spec import ExitPolicy
from river_trt.vllm.versions import TESTED_VERSION


def build_engine(job: BuildJob) -> Manifest:
    """Fill the job's directory with a River checkpoint; see the module's text.

    Raises RiverError for options that a River checkpoint does not have.
    """
    if job.banks != "both":
        raise RiverError("a River checkpoint has both banks; one bank alone is not offered")
    source, recipe, directory = job.source, job.recipe, job.directory
    asked = recipe.options_as(RiverCheckpointOptions)
    dtype = asked.dtype or str(source.checkpoint.dtype).removeprefix("torch.")
    quantiser = job.quantiser()
    river = river_format(source.config, quantiser, recipe.group_size, recipe.symmetric)
    policy = job.policy if job.stored_policy is None else job.stored_policy
    described = describe(source, river, policy)
    config = source.checkpoint.config | {
        "architectures": [ARCHITECTURE],
        "tie_word_embeddings": source.config.tie_embeddings,
        "dtype": dtype,
        SECTION: described.to_dict(),
    }
    config.pop("torch_dtype", None)  # the former name of dtype
    config.pop("auto_map", None)  # no code comes with a checkpoint
    (directory / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    if job.write_tokenizer():
        _write_text_settings(job)
    calibration = job.read_calibration(quantiser)
    shared = source.shared()
    parameters = {
        name: Parameter(kind, shape) for name, (kind, shape) in described.tensors(dtype).items()
    }
    with SafetensorsFile(directory / WEIGHTS_FILE, parameters) as file:
        file.write(_shared_tensors(shared, policy, described.tie_embeddings))
        ids = calibration.token_ids if calibration else None
        stream = stream_layers(source, quantiser, shared, ids, progress=job.progress)
        for layer, banks in enumerate(stream):
            file.write(_layer_tensors(banks, layer))
            job.progress("quantising", layer + 1, described.num_layers)
    return job.write_manifest(
        BackendInfo(BACKEND, TESTED_VERSION, "checkpoint"),
        PrecisionInfo(dtype, torch.finfo(getattr(torch, dtype)).bits, dtype, "int8"),
        calibration,
        byte_counts(
            {name: num_bytes(parameter) for name, parameter in parameters.items()},
            described.num_layers,
            described.vocab_size,
            layers="model.layers.",
            embedding=f"{EMBEDDING}.weight",
        ),
        CONFIG_FILE,
    )


def describe(source: ModelSource, river: RiverFormat, policy: ExitPolicy) -> RiverCheckpoint:
    """The key `river` of config.json."""
    config = source.config
    scaling = config.query_scaling
    pinned = [layer for layer, is_pinned in enumerate(policy.pinned.tolist(), 1) if is_pinned]
    return RiverCheckpoint(
        format=FORMAT,
        family=config.family,
        hidden_size=config.hidden_size,
        num_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        norm_eps=config.norm_eps,
        norm_offset=source.family.weights.norm_offset,
        tie_embeddings=config.tie_embeddings,
        activation=config.activation,
        biased=tuple(sorted(config.biased_linears)),
        qk_norms=config.qk_norms,
        sandwich_norms=config.sandwich_norms,
        embedding_scale=config.embedding_scale,
        attention_scale=config.attention_scale,
        attention_softcap=config.attention_softcap,
        final_softcap=config.final_softcap,
        query_beta=scaling.beta if scaling else 0.0,
        query_period=scaling.period if scaling else 1,
        ropes=tuple(RopeInfo(rope.inv_freq, rope.factor) for rope in config.ropes),
        layers=tuple(LayerInfo(layer.rope, layer.window) for layer in config.layers),
        group_size=river.group_size,
        symmetric=river.symmetric,
        scaled=tuple(sorted(river.scaled)),
        directed=policy.directions is not None,
        tau=tuple(policy.tau.tolist()),
        pinned=tuple(pinned),
    )


def _shared_tensors(shared: SharedWeights, policy: ExitPolicy, tied: bool) -> dict[str, Tensor]:
    tensors = {
        f"{EMBEDDING}.weight": shared.embedding,
        f"{FINAL_NORM}.weight": shared.final_norm,
    }
    if not tied:
        tensors[f"{LM_HEAD}.weight"] = shared.lm_head
    if policy.directions is not None:
        tensors[DIRECTIONS] = torch.from_numpy(policy.directions)
    return tensors


def _layer_tensors(banks: LayerBanks, layer: int) -> dict[str, Tensor]:
    prefix, weights = layer_prefix(layer), banks.weights
    tensors = {f"{prefix}.{NORMS[norm]}.weight": value for norm, value in weights.norms.items()}
    for linear, module in LINEARS.items():
        path = f"{prefix}.{module}"
        tensors[f"{path}.weight"] = weights.linears[linear]
        if linear in weights.biases:
            tensors[f"{path}.bias"] = weights.biases[linear]
        if layer > 0:
            river = banks.river[linear]
            parts = {
                "qweight": river.qweight,
                "scales": river.scales,
                "zero_points": river.zero_points,
                "pre_scale": river.pre_scale,
            }
            tensors |= {f"{path}.{part}": v for part, v in parts.items() if v is not None}
    return tensors


def _write_text_settings(job: BuildJob) -> None:
    """tokenizer_config.json and generation_config.json, which transformers reads too."""
    text: TextInfo = job.source.checkpoint.text_info()
    tokenizer: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    tokenizer |= text.special_tokens
    _write_json(job, "tokenizer_config.json", tokenizer)
    config = job.source.config
    sampling = {k: v for k, v in dataclasses.asdict(text.sampling).items() if v is not None}
    sampling["do_sample"] = bool(sampling.get("temperature"))
    if not sampling["do_sample"]:
        sampling.pop("temperature", None)
    ends = list(config.eos_token_ids)
    _write_json(
        job,
        "generation_config.json",
        sampling | {"bos_token_id": config.bos_token_id, "eos_token_id": ends},
    )


def _write_json(job: BuildJob, name: str, values: dict[str, Any]) -> None:
    file = job.directory / name
    file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
