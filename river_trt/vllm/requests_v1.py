"""Model runner V1 (vLLM on CPUs): a logits processor, which changes no logits, hears of requests.

It is the public place where that runner tells who is in the batch, with the requests' parameters,
before each step.
"""

import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from river_trt.vllm.requests import policies_of
from river_trt.vllm.serving_config import RiverServingConfig


class RiverRequests(LogitsProcessor):
    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        del is_pin_memory
        self.policies = policies_of(vllm_config, device)

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """ValueError for a tau or pins out of range."""
        RiverServingConfig.check_request(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        return True

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        if batch_update is None:
            return
        for row, params, prompt, _ in batch_update.added:
            assert prompt is not None, "prompt embeddings are refused when vLLM starts"
            self.policies.add(row, len(prompt), params.extra_args)
        for source, target, direction in batch_update.moved:
            if direction is MoveDirectionality.SWAP:
                self.policies.swap(source, target)
            else:
                self.policies.move(source, target)
