"""The real vLLM on a CPU: every family, tokens and exit layers, against its own class and ours."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.builders.families.tiny_models import LAYERS, TINY_MODELS, WINDOW
from tests.river_trt.vllm.environment import needs_vllm, run_driver
from tests.river_trt.vllm.models import (
    NEW_TOKENS,
    PROMPT,
    Served,
    forced,
    make,
    request,
    splitting_tau,
)

pytestmark = needs_vllm
# Compared with our runtime alone. vLLM has no class for the one. Of the other it reads how queries
# grow from Mistral's own file format only: its class is not transformers' model here.
WITHOUT_OWN_CLASS = {"ministral", "ministral3"}
# vLLM's own classes take no window in some layers only, and Qwen3's no bias of o: without these.
ALL_LAYERS_ALIKE: dict[str, dict[str, Any]] = {
    "qwen2": {"use_sliding_window": False},
    "qwen3": {
        "use_sliding_window": False,
        "layer_types": ["full_attention"] * LAYERS,
        "attention_bias": False,
    },
}
# Beyond its original positions vLLM gives LongRoPE's long factors to short texts too.
ORIGINAL_POSITIONS = {"phi4-mini": 64}
PINNED = (2,)


def asked(served: Served) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """tau and pins by name."""
    # Not the text that follows, which may be one token over and over: all scores alike.
    text = np.random.default_rng(1).integers(3, 112, 8 * WINDOW).tolist()
    policies: dict[str, tuple[Any, tuple[int, ...]]] = {"full depth": (np.inf, ())}
    policies |= {f"exit after {layer}": (forced(layer), ()) for layer in range(1, LAYERS + 1)}
    policies["tau 0.97"] = (0.97, (LAYERS,))
    policies["about half exit"] = (splitting_tau(served.hf, text), ())
    policies["about half exit, one pinned"] = (splitting_tau(served.hf, text), PINNED)
    return policies


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Served]:
    return {name: make(tmp_path_factory.mktemp(name), name) for name in TINY_MODELS}


@pytest.fixture(scope="module")
def results(models, tmp_path_factory) -> dict[str, Any]:
    cases: list[dict[str, Any]] = []
    for name, served in models.items():
        batch = [request(PROMPT, tau, pinned) for tau, pinned in asked(served).values()]
        settings = {"river": {"river_activation": "float32"}}  # as the tests' engines
        cases.append(
            {
                "name": f"{name} river",
                "model": str(served.river),
                "engine": {"additional_config": settings},
                "batches": [batch],
            }
        )
        if name in WITHOUT_OWN_CLASS:
            continue
        positions = {"max_model_len": ORIGINAL_POSITIONS.get(name, 128)}
        plain, river = served.plain, None
        if name in ALL_LAYERS_ALIKE:
            alike = make(tmp_path_factory.mktemp("alike"), name, **ALL_LAYERS_ALIKE[name])
            plain, river = alike.plain, alike.river
        one = {"engine": positions, "batches": [[request(PROMPT)]]}
        cases.append(one | {"name": f"{name} plain", "model": str(plain)})
        if river is not None:
            full = {"engine": positions, "batches": [[request(PROMPT, np.inf)]]}
            cases.append(full | {"name": f"{name} alike", "model": str(river)})
    return run_driver(Path(tmp_path_factory.mktemp("driver")), cases)


@pytest.mark.parametrize("family", TINY_MODELS)
def test_tokens_and_exit_layers_equal_our_runtimes(models, results, family):
    served, found = models[family], results[f"{family} river"]
    assert "error" not in found, found
    seen = set()
    for (name, (tau, pinned)), answer in zip(
        asked(served).items(), found["batches"][0], strict=True
    ):
        expected = served.expected(PROMPT, tau, pinned)
        assert answer["token_ids"] == expected.token_ids, name
        assert answer["exit_layers"] == expected.exit_layers.tolist(), name
        seen |= set(answer["exit_layers"])
    assert seen == set(range(1, LAYERS + 1))


@pytest.mark.parametrize("family", [name for name in TINY_MODELS if name not in WITHOUT_OWN_CLASS])
def test_full_depth_is_vllms_own_class_token_for_token(results, family):
    plain = results[f"{family} plain"]
    river = results.get(f"{family} alike", results[f"{family} river"])
    assert "error" not in plain, plain
    (expected,) = plain["batches"][0]
    assert river["batches"][0][0]["token_ids"] == expected["token_ids"]
    assert len(expected["token_ids"]) == NEW_TOKENS
