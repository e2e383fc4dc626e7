"""tensorrt_llm.builder.build, and steps over packed requests: a network is constructed for each.

requests [ A: 4 prompt tokens | B: 1 generated token ]   packed into 5 tokens, contexts first

Read from 1.3.0rc3, whose pins are 1.2.1's: BuildConfig and build from builder.py, KVCacheType from
llmapi/kv_cache_type.py, a step's tensors from cpp/tensorrt_llm/batch_manager/runtimeBuffers.cpp.
"""

import copy
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt_rtx as trt
import torch
from pydantic import BaseModel, ConfigDict

from tests.builders.tensorrt_llm.double.functional import Tensor
from tests.builders.tensorrt_llm.double.modeling import AttentionParams, KeyValueCacheParams
from tests.builders.tensorrt_llm.double.network import (
    LOGGER,
    Network,
    PluginConfig,
    net_guard,
)


class KVCacheType(StrEnum):
    """llmapi.kv_cache_type's; a BuildConfig does not take the C++ one of tensorrt_llm.bindings."""

    CONTINUOUS, PAGED, DISABLED = "continuous", "paged", "disabled"


class BindingsKVCacheType(Enum):
    """tensorrt_llm.bindings.KVCacheType."""

    CONTINUOUS, PAGED, DISABLED = 0, 1, 2


class BuildConfig(BaseModel):
    """Pydantic ignores unknown names there too, so the double forbids them."""

    model_config = ConfigDict(extra="forbid")

    max_input_len: int = 1024
    max_seq_len: int | None = None
    max_batch_size: int = 2048
    max_num_tokens: int = 8192
    kv_cache_type: KVCacheType | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What one request gives to a step: its prompt, a chunk of it, or its last token."""

    key: int
    ids: Sequence[int]
    past: int  # tokens in the cache
    prompt: int  # tokens of its prompt

    @property
    def is_generation(self) -> bool:
        return self.past >= self.prompt

    @property
    def context_length(self) -> int:
        """Of a request in its prompt the chunk's, of one that generates the prompt's."""
        return self.prompt if self.is_generation else len(self.ids)


@dataclass
class Engine:
    config: Any
    network: Network

    def save(self, engine_dir: str) -> None:
        rank = self.config.mapping.rank
        if rank == 0:
            document = {"version": "1.2.1", "pretrained_config": self.config.to_dict()}
            Path(engine_dir, "config.json").write_text(json.dumps(document, allow_nan=False))
        Path(engine_dir, f"rank{rank}.engine").write_bytes(b"an engine of the double")


def build(model, build_config: BuildConfig) -> Engine:
    assert build_config.kv_cache_type in (None, KVCacheType.PAGED)  # None: it becomes PAGED
    copy.deepcopy(model.config)  # trtllm-build does, for each rank
    assert build_config.max_input_len <= build_config.max_seq_len
    exchange = None
    if model.config.mapping.tp_size > 1:  # values do not matter
        ranks = model.config.mapping.tp_size
        exchange = lambda value: [value] * ranks  # noqa: E731
    requests = [Request(0, [1, 2, 3], 0, 3), Request(1, [4], 5, 2)]
    network = Network(caches=_filled(model, requests), exchange=exchange)
    construct(model, network, requests)
    return Engine(model.config, network)


def construct(model, network: Network, requests: Sequence[Request]) -> dict[str, torch.Tensor]:
    """Build the network over these requests; its outputs by name."""
    generations = [request.is_generation for request in requests]
    assert generations == sorted(generations), "context requests come first"
    LOGGER.errors.clear()
    with net_guard(network):
        model(**_inputs(model, network, requests))
    assert not LOGGER.errors, LOGGER.errors[0]
    for name, parameter in model.named_parameters():
        assert parameter.is_used_in(network), f"the network does not read {name}"
    return {name: tensor.value for name, tensor in network.outputs.items()}


def run_step(
    models: Sequence[Any], caches: Sequence[dict[int, Any]], requests: Sequence[Request],
    plugin_config: PluginConfig | None = None,
) -> tuple[list[Network], torch.Tensor, torch.Tensor]:  # fmt: skip
    """One step on all ranks: their networks, logits [requests, vocab], exit_layer [requests]."""
    ranks = len(models)
    barrier, slots = threading.Barrier(ranks), [None] * ranks
    networks, results, errors = [None] * ranks, [None] * ranks, []

    def work(rank: int) -> None:
        def exchange(value: torch.Tensor) -> list[torch.Tensor]:
            slots[rank] = value
            barrier.wait(60)
            parts = list(slots)
            barrier.wait(60)
            return parts

        try:
            network = Network(
                plugin_config or PluginConfig(), caches[rank], exchange if ranks > 1 else None
            )
            networks[rank] = network
            results[rank] = construct(models[rank], network, requests)
        except BaseException as error:
            barrier.abort()
            errors.append(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    real = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    if errors:
        raise (real or errors)[0]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-5, rtol=0)
    logits, exit_layer = results[0]["logits"], results[0]["exit_layer"]
    assert logits.shape[0] == len(requests) and exit_layer.shape == (len(requests), 1)
    return networks, logits, exit_layer[:, 0]


def _filled(model, requests: Sequence[Request]) -> dict[int, Any]:
    """Caches in which generation requests have their past, for a network that is only built."""
    config = model.config
    heads = config.num_key_value_heads // config.mapping.tp_size
    rows = {
        request.key: (torch.zeros(heads, request.past, config.head_size),) * 2
        for request in requests
        if request.past
    }
    layers = range(config.num_hidden_layers)
    return {layer: {"step": None, "rows": dict(rows)} for layer in layers}


def _inputs(model, network: Network, requests: Sequence[Request]) -> dict[str, Any]:
    """The tensors that TensorRT-LLM's prepare_inputs makes for packed input and a paged cache."""

    def add(name: str, values: Any, shape: tuple[int, ...] = (-1,), dtype=trt.int32) -> Tensor:
        kind = torch.int64 if dtype == trt.int64 else torch.int32
        value = torch.tensor(np.asarray(values), dtype=kind)
        tensor = network.definition.add_input(name, dtype, shape)
        network.values[tensor.name] = value
        return Tensor(tensor, value)

    config = model.config
    count, layers = len(requests), config.num_hidden_layers
    lengths = [len(request.ids) for request in requests]
    assert all(len(request.ids) == 1 for request in requests if request.is_generation)
    positions = [
        request.past + number for request in requests for number in range(len(request.ids))
    ]
    totals = [request.past + len(request.ids) for request in requests]
    defaults = config.runtime_defaults or {}
    windows = defaults.get("max_attention_window") or [config.max_position_embeddings] * layers
    keys = np.array([request.key for request in requests]).reshape(count, 1, 1)
    offsets = np.zeros((1, count, 2, 1))
    cache = KeyValueCacheParams(
        host_past_key_value_lengths=add(
            "host_past_key_value_lengths",
            [r.past + (0 if r.is_generation else len(r.ids)) for r in requests],
        ),
        host_max_attention_window_sizes=add("host_max_attention_window_sizes", windows, (layers,)),
        host_sink_token_length=add("host_sink_token_length", [0], (1,)),
        kv_cache_block_offsets=add("kv_cache_block_offsets", offsets, (1, -1, 2, -1)),
        host_kv_cache_block_offsets=add("host_kv_cache_block_offsets", offsets, (1, -1, 2, -1)),
        host_kv_cache_pool_pointers=add(
            "host_kv_cache_pool_pointers", np.zeros((1, 2)), (1, 2), trt.int64
        ),
        host_kv_cache_pool_mapping=add(
            "host_kv_cache_pool_mapping", np.zeros((layers, 2)), (layers, 2)
        ),
        cache_indirection=add("cache_indirection", keys, (-1, 1, -1)),
    )
    attention = AttentionParams(
        sequence_length=add("sequence_length", totals),
        context_lengths=add("context_lengths", [r.context_length for r in requests]),
        host_context_lengths=add("host_context_lengths", [r.context_length for r in requests]),
        max_context_length=config.max_position_embeddings,
        host_request_types=add("host_request_types", [int(r.is_generation) for r in requests]),
        host_runtime_perf_knobs=add("host_runtime_perf_knobs", np.zeros(16), (16,), trt.int64),
        host_context_progress=add("host_context_progress", [0], (1,), trt.int64),
    )
    return {
        "input_ids": add("input_ids", [token for request in requests for token in request.ids]),
        "position_ids": add("position_ids", positions),
        "use_cache": network.plugin_config.paged_kv_cache,
        "last_token_ids": add("last_token_ids", np.cumsum(lengths)),
        "attention_mask": None,
        "kv_cache_params": cache,
        "attention_params": attention,
    }
