"""Model runner V2's side, with doubles of the runner's objects: that runner needs Triton, so a GPU.

Run in vLLM's environment; prints what the model would be given, as JSON.
"""

import json
import os
from types import SimpleNamespace

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import numpy as np
import torch

import vllm  # noqa: F401 (before the modules below, which import each other)
from river_trt.vllm.model import RiverForCausalLM
from river_trt.vllm.requests import RequestPolicies
from river_trt.vllm.settings import Policy


def batch(rows, counts, computed, padded):
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return SimpleNamespace(
        num_reqs=len(rows),
        idx_mapping_np=np.array(rows, np.int32),
        query_start_loc_np=starts,
        num_computed_tokens_np=np.array(computed, np.int32),
        num_tokens_after_padding=padded,
    )


def request(length, **extra_args):
    return SimpleNamespace(
        prompt_token_ids=list(range(length)),
        prefill_token_ids=list(range(length)),
        mm_features=[],
        sampling_params=SimpleNamespace(extra_args=extra_args or None),
    )


def main() -> None:
    kind = RiverForCausalLM.get_model_state_cls()
    state = object.__new__(kind)
    state.rope_state = state.prompt_embeds_state = None
    state.supports_mm_inputs = False
    state.policies = RequestPolicies(Policy((0.5, 0.5, 0.5), (3,)), 8, 16, torch.device("cpu"))
    state.add_request(5, request(3))
    state.add_request(2, request(4, river_tau="inf", river_pinned=[1]))
    found = {}
    for name, step in {
        # A chunk of one prompt beside a token that is generated, then three of padding.
        "mixed": batch([5, 2], [1, 3], [3, 0], 7),
        # One request computes all again after a preemption: prompt and what followed it.
        "again": batch([5], [5], [0], 5),
    }.items():
        inputs = state.prepare_inputs(step, None)
        found[name] = {
            "tau": [[str(value) for value in row] for row in inputs["tau"].tolist()],
            "pinned": inputs["pinned"].tolist(),
            "generated": inputs["generated"].tolist(),
        }
        found[f"{name} memory"] = inputs["tau"].data_ptr()
    dummy = state.prepare_dummy_inputs(2, 4)
    found["dummy"] = dummy["generated"].tolist()
    found["dummy memory"] = dummy["tau"].data_ptr()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
