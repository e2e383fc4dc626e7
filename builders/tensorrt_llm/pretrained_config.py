"""config.json of a checkpoint: TensorRT-LLM's own keys, and the section `river`."""

from typing import Any

from builders.decoder import RiverFormat
from builders.families import ModelConfig
from builders.tensorrt_llm.river_section import ARCHITECTURE, RiverSection
from builders.tensorrt_llm.sharding import Sharding
from river_trt.spec import GateKind


def pretrained_config(
    config: ModelConfig,
    river: RiverFormat,
    sharding: Sharding,
    dtype: str,
    max_seq_len: int,
    gate: GateKind,
) -> dict[str, Any]:
    """Sizes are of all ranks together, padding included: TensorRT-LLM divides by the ranks."""
    ranks = sharding.ranks
    values: dict[str, Any] = {
        "architecture": ARCHITECTURE,
        "dtype": dtype,
        "logits_dtype": "float32",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": sharding.heads[0].length * ranks,
        "num_key_value_heads": sharding.kv_heads[0].length * ranks,
        "head_size": config.head_dim,
        "intermediate_size": sharding.intermediate[0].length * ranks,
        "hidden_act": config.activation,
        "norm_epsilon": config.norm_eps,
        "max_position_embeddings": max_seq_len,
        "position_embedding_type": "rope_gpt_neox",
        "mapping": {"world_size": ranks, "tp_size": ranks, "pp_size": 1},
        "river": _section(config, river, gate).to_dict(),
    }
    windows = [layer.window or max_seq_len for layer in config.layers]
    if any(layer.window for layer in config.layers):
        # The executor takes it for its cache where the caller gives no window.
        values["runtime_defaults"] = {
            "max_attention_window": [min(window, max_seq_len) for window in windows]
        }
    return values


def _section(config: ModelConfig, river: RiverFormat, gate: GateKind) -> RiverSection:
    scaling = config.query_scaling
    return RiverSection(
        group_size=river.group_size,
        symmetric=river.symmetric,
        scaled=tuple(sorted(river.scaled)),
        biased=tuple(sorted(config.biased_linears)),
        gate=gate,
        attention_scale=config.attention_scale,
        ropes=tuple(rope.inv_freq for rope in config.ropes),
        layer_ropes=tuple(layer.rope for layer in config.layers),
        query_beta=scaling.beta if scaling else 0.0,
        query_period=scaling.period if scaling else 1,
        qk_norms=config.qk_norms,
        sandwich_norms=config.sandwich_norms,
        embedding_scale=config.embedding_scale,
        attention_softcap=config.attention_softcap,
        final_softcap=config.final_softcap,
    )
