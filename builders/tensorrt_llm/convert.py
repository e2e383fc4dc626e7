"""A model as a TensorRT-LLM checkpoint with both banks: any machine, no TensorRT-LLM.

<out>/config.json, rank{r}.safetensors     what trtllm-build reads
<out>/manifest.json, tokenizer.json, ...   what becomes part of the engine directory
"""

import json
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from builders.job import BuildJob
from builders.layouts.byte_counts import byte_counts
from builders.river_bank import river_format, stream_layers
from builders.safetensors_file import SafetensorsFile, num_bytes
from builders.tensorrt_llm.options import TensorRTLLMOptions
from builders.tensorrt_llm.parameters import (
    EMBEDDING,
    FINAL_NORM,
    LAYERS,
    LM_HEAD,
    POLICY,
    layer_prefix,
    rank_parameters,
)
from builders.tensorrt_llm.pretrained_config import pretrained_config
from builders.tensorrt_llm.rank_tensors import fold_rotary_factor, rank_layer, take
from builders.tensorrt_llm.sharding import Sharding, shard
from builders.weights import SharedWeights
from river_trt.backends.tensorrt_llm import CHECKPOINT, CONFIG_FILE, SUPPORTED_VERSION
from river_trt.errors import RiverError
from river_trt.manifest import BackendInfo, Manifest, PrecisionInfo
from river_trt.spec import ExitPolicy

LM_HEAD_BITS = (None, 16)


def build_engine(job: BuildJob) -> Manifest:
    """Fill the job's directory with a checkpoint; see the module's text.

    Raises RiverError for options that TensorRT-LLM's network does not offer, and for a number of
    ranks that the model cannot be spread over.
    """
    source, recipe, directory = job.source, job.recipe, job.directory
    asked = recipe.options_as(TensorRTLLMOptions)
    config, dtype = source.config, asked.dtype
    _check_options(job)
    sharding = shard(config, asked.tensor_parallel, recipe.group_size)
    quantiser = job.quantiser()
    river = river_format(config, quantiser, recipe.group_size, recipe.symmetric)
    policy = job.policy if job.stored_policy is None else job.stored_policy
    values = pretrained_config(config, river, sharding, dtype, recipe.max_seq_len, policy.gate)
    (directory / CONFIG_FILE).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    job.write_tokenizer()
    calibration = job.read_calibration(quantiser)
    shared = source.shared()
    parameters = rank_parameters(
        config, river, sharding, dtype, directions=policy.directions is not None
    )
    with ExitStack() as stack:
        files = [
            stack.enter_context(SafetensorsFile(directory / rank_file_name(rank), parameters))
            for rank in range(sharding.ranks)
        ]
        for rank, file in enumerate(files):
            file.write(_shared_tensors(shared, sharding, rank) | _policy_tensors(policy))
        ids = calibration.token_ids if calibration else None
        stream = stream_layers(source, quantiser, shared, ids, job.watch, job.progress)
        for layer, banks in enumerate(stream):
            folded = fold_rotary_factor(banks, config, layer)
            for rank, file in enumerate(files):
                tensors = rank_layer(folded, config, sharding, rank, has_river=layer > 0)
                prefix = layer_prefix(layer)
                file.write({f"{prefix}.{name}": tensor for name, tensor in tensors.items()})
            job.progress("quantising", layer + 1, config.num_layers)
    return job.write_manifest(
        BackendInfo("tensorrt-llm", SUPPORTED_VERSION, CHECKPOINT),
        PrecisionInfo(dtype, 16, dtype, dtype),
        calibration,
        # Of one rank.
        byte_counts(
            {name: num_bytes(parameter) for name, parameter in parameters.items()},
            config.num_layers,
            config.vocab_size,
            layers=LAYERS,
            embedding=EMBEDDING,
        ),
        CONFIG_FILE,
    )


def rank_file_name(rank: int) -> str:
    return f"rank{rank}.safetensors"


def _check_options(job: BuildJob) -> None:
    if job.banks != "both":
        raise RiverError("a TensorRT-LLM engine has both banks; one bank alone is not offered")
    bits = job.recipe.options_as(TensorRTLLMOptions).lm_head_bits
    if bits not in LM_HEAD_BITS:
        raise RiverError(
            f"an LM head of {bits} bits is not offered with TensorRT-LLM, whose head has 16"
        )


def _shared_tensors(shared: SharedWeights, sharding: Sharding, rank: int) -> dict[str, Tensor]:
    return {
        EMBEDDING: shared.embedding,
        FINAL_NORM: shared.final_norm,
        LM_HEAD: take(shared.lm_head, 0, [sharding.vocab[rank]]),
    }


def _policy_tensors(policy: ExitPolicy) -> dict[str, Tensor]:
    """Constants of the network: the executor has no input for a policy."""
    tensors = {
        f"{POLICY}.tau": torch.from_numpy(policy.tau),
        f"{POLICY}.pinned": torch.from_numpy(policy.pinned.astype(np.int32)),
    }
    if policy.directions is not None:
        tensors[f"{POLICY}.directions"] = torch.from_numpy(policy.directions)
    return tensors
