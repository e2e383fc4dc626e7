"""transformers' own generate, eager, float32."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

from builders.peers.base import PeerRun
from builders.peers.weights import hf_directory


class Transformers:
    def __init__(self, model: str, work: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        directory = hf_directory(model, work)
        self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
        versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        self.details: dict[str, Any] = versions | {"dtype": "float32", "threads": threads}

    def decode(self, prompt: Sequence[int], new_tokens: int) -> PeerRun:
        clock = _Clock()
        ids = torch.tensor([list(prompt)])
        out = self._model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        start, first, *_ = times = clock.times
        return PeerRun(out[0, len(prompt) :].tolist(), times[-1] - first, first - start)


class _Clock(StoppingCriteria):  # type: ignore[misc]
    """Called after each token; stops nothing."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        self.times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool)
