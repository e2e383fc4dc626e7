"""What each family's config.json says, old forms too, and what is refused."""

import dataclasses
import json
import re
from typing import Any

import pytest
import torch
import transformers
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from builders.build import BuildOptions, build, engine_positions
from builders.families import family_of
from builders.families.base import LayerSpec, ModelConfig, QueryScaling
from river_trt.errors import CheckpointError, RiverError
from tests.builders.families.tiny_models import (
    FULL,
    LONGROPE,
    SIZES,
    SLIDING,
    TINY_MODELS,
    save_tiny_model,
)


def config_json(name: str, **changes: Any) -> dict[str, Any]:
    """The config.json of a tiny model, as transformers saves it; None drops a key."""
    tiny = TINY_MODELS[name]
    config_class = getattr(transformers, tiny.architecture).config_class
    saved = json.loads(config_class(**(SIZES | tiny.config)).to_json_string())
    changed = saved | {"architectures": [tiny.architecture]} | changes
    return {key: value for key, value in changed.items() if value is not None}


def read(config: dict[str, Any]) -> ModelConfig:
    return family_of(config).read_config(config)


def test_layers_of_the_families():
    """Which layers have a window, and which rotary frequencies."""
    layers = {name: read(config_json(name)).layers for name in TINY_MODELS}
    everywhere = (LayerSpec(0, 6),) * 3
    assert layers["llama"] == layers["phi4-mini"] == (LayerSpec(0, None),) * 3
    assert layers["mistral"] == layers["phi3"] == everywhere
    assert layers["ministral3"] == (LayerSpec(0, 12),) * 3
    assert layers["qwen2"] == (LayerSpec(0, None), LayerSpec(0, 6), LayerSpec(0, 6))
    alternating = (LayerSpec(0, 6), LayerSpec(0, None), LayerSpec(0, 6))
    assert layers["ministral"] == layers["qwen3"] == layers["gemma2"] == alternating
    assert layers["gemma3"] == (LayerSpec(1, 6), LayerSpec(0, None), LayerSpec(1, 6))
    assert layers["smollm3"] == (LayerSpec(0, None), LayerSpec(None, 6), LayerSpec(0, None))


def test_window_that_is_switched_off():
    assert read(config_json("qwen2", use_sliding_window=False, layer_types=None)).layers == (
        (LayerSpec(0, None),) * 3
    )
    mistral = config_json("mistral")
    assert read(mistral | {"sliding_window": None}).layers == (LayerSpec(0, None),) * 3


def test_features_of_gemma():
    config = read(config_json("gemma2"))
    assert (config.attention_softcap, config.final_softcap) == (2.0, 4.0)
    assert config.sandwich_norms and not config.qk_norms
    assert (config.embedding_scale, config.attention_scale) == (8.0, 24**-0.5)
    assert config.activation == "gelu_pytorch_tanh"
    assert set(config.norm_sizes) == {
        "input_norm",
        "post_attention_norm",
        "attention_out_norm",
        "mlp_out_norm",
    }


def test_gemma3_of_the_hub_has_old_names_of_its_rope():
    old = config_json("gemma3", rope_parameters=None, layer_types=None) | {
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 1000.0,
        "sliding_window_pattern": 2,
    }
    assert read(old) == read(config_json("gemma3"))


def test_query_scaling_of_ministral3():
    assert read(config_json("ministral3")).query_scaling == QueryScaling(0.5, 8)


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.0])
def test_partial_rotary_equals_transformers(factor):
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": factor}
    config = config_json("phi4-mini", rope_parameters=rope)
    (ours,) = read(config).ropes
    theirs = Phi3RotaryEmbedding(transformers.Phi3Config.from_dict(config))
    assert torch.equal(torch.tensor(ours.inv_freq), theirs.inv_freq)


# --- LongRoPE: the angles of a long sequence are others than those of a short one ---


def test_longrope_is_held_up_to_the_short_factors_end():
    config = read(config_json("phi4-mini"))
    assert config.fixed_rope_positions == 64
    assert config.ropes[0].factor > 1
    assert engine_positions(config, 8192, None) == 64
    assert engine_positions(config, 48, 48) == 48
    with pytest.raises(RiverError, match="max_seq_len 65 is more than the 64 positions of LongR"):
        engine_positions(config, 65, 65)


def test_longrope_with_one_list_of_factors_has_no_end():
    one_list = LONGROPE | {"long_factor": LONGROPE["short_factor"]}
    config = read(config_json("phi4-mini", rope_parameters=one_list))
    assert config.fixed_rope_positions is None
    assert engine_positions(config, 8192, None) == 256


def test_longrope_in_transformers_does_change_past_the_end(tmp_path):
    """So the limit is needed: one token more changes the logits of the tokens before it."""
    model = save_tiny_model(tmp_path, TINY_MODELS["phi4-mini"])
    ids = torch.randint(3, 112, (1, 65), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        short, long = model(ids[:, :64]).logits, model(ids).logits[:, :64]
    assert (short - long).abs().max() > 0.05


def test_longrope_build_that_asks_for_more_leaves_nothing_behind(tmp_path):
    save_tiny_model(tmp_path / "model", TINY_MODELS["phi4-mini"])
    options = BuildOptions(str(tmp_path / "model"), tmp_path / "engine", max_seq_len=100)
    with pytest.raises(RiverError, match="LongRoPE"):
        build(options)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_rotary_part_that_onnxruntime_cannot_turn(tmp_path):
    rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}
    tiny = TINY_MODELS["phi4-mini"]
    tiny = dataclasses.replace(tiny, config=tiny.config | {"rope_parameters": rope})
    save_tiny_model(tmp_path / "model", tiny)
    options = BuildOptions(
        str(tmp_path / "model"), tmp_path / "engine", quantiser="rtn", calibrate=False
    )
    with pytest.raises(CheckpointError, match="rotates 24 values of each head, .* multiples of 16"):
        build(dataclasses.replace(options, kernels="onnxruntime"))
    build(options)  # the native kernels can


# --- what is refused ---

DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("qwen3", {"layer_types": ["chunked_attention"] * 3}, "chunked_attention"),
    ("qwen3", {"layer_types": [FULL] * 2}, "layer_types"),
    ("ministral", {"layer_types": [SLIDING] * 3, "sliding_window": None}, "window"),
    ("mistral", {"sliding_window": 0}, "a sliding window of 0 tokens"),
    ("mistral", {"rope_parameters": DYNAMIC}, "RoPE scaling 'dynamic' is not supported"),
    ("mistral", {"partial_rotary_factor": 0.5}, "a part of each head are not supported in mistral"),
    ("mistral", {"hidden_act": "gelu"}, "activation 'gelu' is not supported"),
    ("ministral3", {"rope_parameters": {"rope_theta": 1e4}}, "lack llama_4_scaling_beta"),
    ("phi3", {"rope_parameters": DYNAMIC}, "not a valid phi3 config"),
    ("phi4-mini", {"rope_parameters": LONGROPE | {"short_factor": [1.0]}}, "short_factor"),
    ("smollm3", {"no_rope_layers": [1, 0]}, "2 no_rope_layers for 3 layers"),
    ("gemma2", {"use_bidirectional_attention": True}, "bidirectional attention is not supported"),
    ("gemma2", {"attn_logit_softcapping": -1.0}, "soft cap must be positive, got -1.0"),
    ("gemma2", {"hidden_activation": "gelu"}, "activation 'gelu' is not supported"),
    ("gemma3", {"attn_logit_softcapping": 50.0}, "Gemma 3 with attn_logit_softcapping"),
    ("gemma3", {"architectures": ["Gemma3nForCausalLM"]}, "Gemma3nForCausalLM is not supported"),
    ("qwen3", {"architectures": ["Qwen3MoeForCausalLM"]}, "Qwen3MoeForCausalLM is not supported"),
]


@pytest.mark.parametrize(("name", "changes", "message"), REFUSED)
def test_refused(name, changes, message):
    with pytest.raises(CheckpointError, match=re.escape(message)) as caught:
        read(config_json(name) | changes)
    assert "\n" not in str(caught.value)
