"""Model runner V2 (vLLM on GPUs): the model's own state object is told of requests and steps.

Not run: that runner needs Triton, which vLLM has on GPUs only. A test calls what is here with
doubles of the runner's objects.
"""

from typing import Any

import numpy as np
import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.core.sched.output import NewRequestData
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.model_states.default import DefaultModelState
from vllm.v1.worker.gpu.sample.logits_processor.interface import LogitsContext, LogitsProcessor
from vllm.v1.worker.gpu.states import RequestState

from river_trt.vllm.requests import StepPolicies, policies_of
from river_trt.vllm.serving_config import RiverServingConfig


class RiverRequests(LogitsProcessor):
    """Checks requests where they come in; changes no logits."""

    def __init__(self, vllm_config: VllmConfig, req_states: Any) -> None:
        del vllm_config, req_states

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """ValueError for a tau or pins out of range."""
        RiverServingConfig.check_request(sampling_params.extra_args)

    def add_request(self, req_idx: int, sampling_params: SamplingParams) -> bool:
        return False

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        return logits


class RiverModelState(DefaultModelState):
    """What the runner asks beside token ids and positions: each token's policy."""

    def __init__(
        self, vllm_config: VllmConfig, model: torch.nn.Module, encoder_cache: Any, device: Any
    ) -> None:
        super().__init__(vllm_config, model, encoder_cache, device)
        self.policies = policies_of(vllm_config, device)

    def add_request(self, req_index: int, new_req_data: NewRequestData) -> None:
        super().add_request(req_index, new_req_data)
        prompt, params = new_req_data.prompt_token_ids, new_req_data.sampling_params
        assert prompt is not None and params is not None
        self.policies.add(req_index, len(prompt), params.extra_args)

    def prepare_inputs(self, input_batch: InputBatch, req_states: RequestState) -> dict[str, Any]:
        """Positions are computed on the host, as the runner's own copy of them is on the device."""
        starts = input_batch.query_start_loc_np[: input_batch.num_reqs + 1]
        counts = np.diff(starts)
        first = input_batch.num_computed_tokens_np[: input_batch.num_reqs]
        within = np.arange(counts.sum()) - np.repeat(starts[:-1], counts)
        positions = torch.from_numpy(np.repeat(first, counts) + within)
        rows = input_batch.idx_mapping_np[: input_batch.num_reqs]
        step = self.policies.step(rows, starts, positions, input_batch.num_tokens_after_padding)
        inputs: dict[str, Any] = super().prepare_inputs(input_batch, req_states)
        return inputs | _as_inputs(step)

    def prepare_dummy_inputs(self, num_reqs: int, num_tokens: int) -> dict[str, Any]:
        inputs: dict[str, Any] = super().prepare_dummy_inputs(num_reqs, num_tokens)
        return inputs | _as_inputs(self.policies.idle(num_tokens))


def _as_inputs(step: StepPolicies) -> dict[str, torch.Tensor]:
    return {"tau": step.tau, "pinned": step.pinned, "generated": step.generated}
