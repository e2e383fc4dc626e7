"""The policies of the requests in a batch, as tensors of the step's tokens.

A row is a request's place in the model runner's batch. A token is generated if it stands behind its
prompt: also one that is computed again after a preemption, which so takes the same banks as before.
"""

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.config import VllmConfig

from river_trt.vllm.serving_config import read_checkpoint, read_settings
from river_trt.vllm.settings import TRACE, Policy, request_policy


@dataclass(frozen=True, slots=True)
class StepPolicies:
    """Of the tokens of one step; padding is not generated, and so stays on the backbone."""

    tau: Tensor  # float32 [tokens, L]
    pinned: Tensor  # bool [tokens, L]
    generated: Tensor  # bool [tokens]


class RequestPolicies:
    """Policies by row. `traces` keeps exit layers of requests that ask for it by a name."""

    def __init__(self, policy: Policy, rows: int, tokens: int, device: torch.device) -> None:
        layers = len(policy.tau)
        self.policy = policy
        self.traces: dict[str, dict[int, int]] = {}  # by position
        self._tau = torch.zeros(rows, layers)
        self._pinned = torch.zeros(rows, layers, dtype=torch.bool)
        self._prompt_lengths = torch.zeros(rows, dtype=torch.int64)
        self._names: list[str | None] = [None] * rows
        self._device = device
        # One memory for all steps: a recorded step reads where it was recorded to.
        self._step = StepPolicies(
            torch.zeros(tokens, layers, device=device),
            torch.zeros(tokens, layers, dtype=torch.bool, device=device),
            torch.zeros(tokens, dtype=torch.bool, device=device),
        )

    def add(self, row: int, prompt_length: int, extra_args: Mapping[str, Any] | None) -> None:
        policy = request_policy(self.policy, extra_args)
        self._tau[row] = torch.tensor(policy.tau)
        self._pinned[row] = False
        self._pinned[row, [layer - 1 for layer in policy.pinned]] = True
        self._prompt_lengths[row] = prompt_length
        self._names[row] = (extra_args or {}).get(TRACE)

    def move(self, source: int, target: int) -> None:
        self._put(target, *self._taken(source))

    def swap(self, left: int, right: int) -> None:
        kept = self._taken(left)
        self._put(left, *self._taken(right))
        self._put(right, *kept)

    def step(
        self,
        rows: np.ndarray,  # [requests] the row of each request of the step
        starts: np.ndarray,  # [requests + 1] where its tokens begin, and the end of all
        positions: Tensor,  # [tokens] with padding, on the host
        tokens: int,
    ) -> StepPolicies:
        """The policies of a step of so many tokens, padding included."""
        counts = np.diff(starts)
        of_token = torch.from_numpy(np.repeat(rows.astype(np.int64), counts))
        real, step = len(of_token), self._step
        step.tau[:real].copy_(self._tau[of_token], non_blocking=True)
        step.pinned[:real].copy_(self._pinned[of_token], non_blocking=True)
        generated = positions[:real] >= self._prompt_lengths[of_token]
        step.generated[:real].copy_(generated, non_blocking=True)
        step.generated[real:tokens] = False
        return self.first(tokens)

    def first(self, tokens: int) -> StepPolicies:
        """The first tokens of what was set last."""
        step = self._step
        return StepPolicies(step.tau[:tokens], step.pinned[:tokens], step.generated[:tokens])

    def idle(self, tokens: int) -> StepPolicies:
        """Of a step that serves nobody: a warm-up, or a recording."""
        self._step.generated[:tokens] = False
        return self.first(tokens)

    def keep_traces(
        self, rows: np.ndarray, starts: np.ndarray, positions: Tensor, exit_layer: Tensor
    ) -> None:
        """Keep a step's exit layers for the requests that gave a name."""
        for index, row in enumerate(rows.tolist()):
            name = self._names[row]
            if name is not None:
                part = slice(int(starts[index]), int(starts[index + 1]))
                found = zip(positions[part].tolist(), exit_layer[part].tolist(), strict=True)
                self.traces.setdefault(name, {}).update(found)

    @property
    def is_tracing(self) -> bool:
        return any(name is not None for name in self._names)

    def _taken(self, row: int) -> tuple[Tensor, Tensor, Tensor, str | None]:
        tensors = (self._tau, self._pinned, self._prompt_lengths)
        tau, pinned, length = (tensor[row].clone() for tensor in tensors)
        return tau, pinned, length, self._names[row]

    def _put(self, row: int, tau: Tensor, pinned: Tensor, length: Tensor, name: str | None) -> None:
        self._tau[row], self._pinned[row], self._prompt_lengths[row] = tau, pinned, length
        self._names[row] = name


# The model and vLLM's own parts find the same one, by the configuration that both are given.
_of_instances: weakref.WeakValueDictionary[str, RequestPolicies] = weakref.WeakValueDictionary()


def policies_of(vllm_config: VllmConfig, device: torch.device) -> RequestPolicies:
    """The one of this configuration's model; its users keep it alive."""
    found = _of_instances.get(vllm_config.instance_id)
    if found is None:
        checkpoint = read_checkpoint(vllm_config)
        scheduler = vllm_config.scheduler_config
        found = RequestPolicies(
            read_settings(vllm_config, checkpoint).policy,
            scheduler.max_num_seqs + 1,
            # A recording may be larger than any step that the scheduler makes.
            max(
                scheduler.max_num_batched_tokens,
                vllm_config.compilation_config.max_cudagraph_capture_size or 0,
            ),
            device,
        )
        _of_instances[vllm_config.instance_id] = found
    return found
