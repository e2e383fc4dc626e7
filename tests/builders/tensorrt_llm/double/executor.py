"""tensorrt_llm.bindings.executor: the classes that the runtime adapter calls, and a tiny model.

Signatures are those of the bindings of TensorRT-LLM 1.2; an unknown argument is a TypeError there
too. The double generates token (sum of all tokens so far) mod 50, exit layers 2, 1, 2, ...
"""

import itertools
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch

OPENED: list["Executor"] = []


class ModelType(Enum):
    DECODER_ONLY = 0


@dataclass
class AdditionalModelOutput:
    name: str
    gather_context: bool = False


@dataclass
class KvCacheConfig:
    enable_block_reuse: bool = True
    max_tokens: int | None = None
    max_attention_window: list[int] | None = None
    sink_token_length: int | None = None
    free_gpu_memory_fraction: float | None = None


@dataclass(kw_only=True)
class ParallelConfig:
    device_ids: list[int] | None = None


@dataclass(kw_only=True)
class ExecutorConfig:
    max_beam_width: int = 1
    kv_cache_config: KvCacheConfig = field(default_factory=KvCacheConfig)
    enable_chunked_context: bool = False
    max_batch_size: int | None = None
    max_num_tokens: int | None = None
    parallel_config: ParallelConfig | None = None
    additional_model_outputs: list[AdditionalModelOutput] | None = None


@dataclass(kw_only=True)
class _SamplingKeywords:
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    min_p: float | None = None


@dataclass
class SamplingConfig(_SamplingKeywords):
    beam_width: int = 1


@dataclass
class OutputConfig:
    return_log_probs: bool | None = None
    return_context_logits: bool | None = None
    return_generation_logits: bool | None = None
    exclude_input_from_output: bool | None = None
    return_encoder_output: bool | None = None
    return_perf_metrics: bool | None = None
    additional_model_outputs: list[AdditionalModelOutput] | None = None


class Request:
    def __init__(self, input_token_ids: list[int], max_tokens: int, *, streaming: bool = False,
                 sampling_config: SamplingConfig | None = None,
                 output_config: OutputConfig | None = None, end_id: int | None = None,
                 pad_id: int | None = None,
                 stop_words: list[list[int]] | None = None) -> None:  # fmt: skip
        assert input_token_ids and all(type(token) is int for token in input_token_ids)
        assert max_tokens >= 1
        self.input_token_ids, self.max_tokens, self.streaming = (
            input_token_ids,
            max_tokens,
            streaming,
        )
        self.sampling_config, self.output_config = sampling_config, output_config
        self.stop_words = stop_words or []


@dataclass
class AdditionalOutput:
    name: str
    output: torch.Tensor


@dataclass
class Result:
    is_final: bool
    output_token_ids: list[list[int]]
    additional_outputs: list[AdditionalOutput]


@dataclass
class Response:
    request_id: int
    result: Result
    error_msg: str = ""

    def has_error(self) -> bool:
        return bool(self.error_msg)


class Executor:
    def __init__(self, model_path: Any, model_type: ModelType, executor_config: ExecutorConfig):
        self.model_path, self.config = model_path, executor_config
        self.requests: dict[int, Request] = {}
        self.cancelled: list[int] = []
        self.fails: dict[int, str] = {}
        self.is_leader, self.is_shut_down = True, False
        self._ids = itertools.count(100)
        self._tokens: dict[int, list[int]] = {}
        OPENED.append(self)

    def can_enqueue_requests(self) -> bool:
        return self.is_leader

    def shutdown(self) -> None:
        self.is_shut_down = True

    def enqueue_requests(self, requests: list[Request]) -> list[int]:
        ids = [next(self._ids) for _ in requests]
        for request_id, request in zip(ids, requests, strict=True):
            self.requests[request_id], self._tokens[request_id] = request, []
        return ids

    def cancel_request(self, id: int) -> None:  # noqa: A002 (the binding's name)
        self.cancelled.append(id)
        self.requests.pop(id, None)

    def await_responses(self, timeout: Any = None) -> list[Response]:
        """One token of every request that is left, in another order each time."""
        assert self.requests, "it would wait for ever"
        responses = []
        for request_id, request in reversed(list(self.requests.items())):
            tokens = self._tokens[request_id]
            token = (sum(request.input_token_ids) + sum(tokens)) % 50
            tokens.append(token)
            is_final = len(tokens) == request.max_tokens or [token] in request.stop_words
            # [beams, max_tokens, 1]: whole, also while it streams
            exit_layers = torch.zeros(1, request.max_tokens, 1, dtype=torch.int32)
            exit_layers[0, : len(tokens), 0] = torch.arange(1, len(tokens) + 1) % 2 + 1
            assert (
                self.config.additional_model_outputs
                == request.output_config.additional_model_outputs
            )
            output = AdditionalOutput("generation_exit_layer", exit_layers)
            result = Result(is_final, [[token]], [output])
            responses.append(Response(request_id, result, self.fails.get(len(tokens), "")))
            if is_final:
                del self.requests[request_id]
        return responses
