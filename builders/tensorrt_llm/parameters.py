"""The parameters of a rank's network: their names, types and shapes, before any weight is read.

transformer.layers.1.attention.qkv.{weight, qweight, scales, ...}   one linear, both banks
A name is the module's path in model.py. The first layer has no river: nothing has exited before it.
"""

from builders.decoder import RiverFormat
from builders.families import ModelConfig
from builders.safetensors_file import Parameter
from builders.tensorrt_llm.sharding import Sharding

# Module paths below transformer.layers.N, by the names of LayerWeights.
LINEARS = {"qkv": "attention.qkv", "o": "attention.dense", "gate_up": "mlp.fc", "down": "mlp.proj"}
NORMS = {
    "input_norm": "input_layernorm",
    "q_norm": "attention.q_layernorm",
    "k_norm": "attention.k_layernorm",
    "attention_out_norm": "attention_out_layernorm",
    "post_attention_norm": "post_layernorm",
    "mlp_out_norm": "mlp_out_layernorm",
}
EMBEDDING = "transformer.vocab_embedding.weight"
FINAL_NORM = "transformer.ln_f.weight"
LM_HEAD = "lm_head.weight"
POLICY = "transformer.exit_policy"
LAYERS = "transformer.layers."


def layer_prefix(layer: int) -> str:
    """layer: from 0, as in TensorRT-LLM's names."""
    return f"{LAYERS}{layer}"


def rank_parameters(
    config: ModelConfig, river: RiverFormat, sharding: Sharding, dtype: str, directions: bool
) -> dict[str, Parameter]:
    """All parameters of one rank, in layer order; every rank's have the same shapes.

    directions: the policy has the direction gate.
    """
    hidden = config.hidden_size
    parameters = {
        EMBEDDING: Parameter(dtype, (config.vocab_size, hidden)),
        f"{POLICY}.tau": Parameter("float32", (config.num_layers,)),
        f"{POLICY}.pinned": Parameter("int32", (config.num_layers,)),
    }
    if directions:
        parameters[f"{POLICY}.directions"] = Parameter("float32", (config.num_layers, hidden))
    for layer in range(config.num_layers):
        prefix = layer_prefix(layer)
        for norm, size in config.norm_sizes.items():
            parameters[f"{prefix}.{NORMS[norm]}.weight"] = Parameter(dtype, (size,))
        for linear, (rows, columns) in rank_linear_shapes(config, sharding).items():
            parts = _linear(linear, rows, columns, config, river, dtype, has_river=layer > 0)
            path = f"{prefix}.{LINEARS[linear]}"
            parameters |= {f"{path}.{part}": parameter for part, parameter in parts.items()}
    parameters[FINAL_NORM] = Parameter(dtype, (hidden,))
    parameters[LM_HEAD] = Parameter(dtype, (sharding.vocab[0].length, hidden))
    return parameters


def rank_linear_shapes(config: ModelConfig, sharding: Sharding) -> dict[str, tuple[int, int]]:
    """[out, in] of a layer's four linears on a rank."""
    q_size = sharding.heads[0].length * config.head_dim
    kv_size = sharding.kv_heads[0].length * config.head_dim
    intermediate = sharding.intermediate[0].length
    return {
        "qkv": (q_size + 2 * kv_size, config.hidden_size),
        "o": (config.hidden_size, q_size),
        "gate_up": (2 * intermediate, config.hidden_size),
        "down": (config.hidden_size, intermediate),
    }


def _linear(
    linear: str,
    rows: int,
    columns: int,
    config: ModelConfig,
    river: RiverFormat,
    dtype: str,
    has_river: bool,
) -> dict[str, Parameter]:
    """RiverLinear's weights; its river is four dialect bytes an int32 (docs/plugin.md)."""
    parts = {"weight": Parameter(dtype, (rows, columns))}
    if has_river:
        groups = -(-columns // river.group_size)
        parts["qweight"] = Parameter("int32", (rows, groups * river.group_size // 8))
        parts["scales"] = Parameter("float16", (rows, groups))
        if not river.symmetric:
            parts["zero_points"] = Parameter("int32", (-(-rows * groups // 4),))
        if linear in river.scaled:
            parts["pre_scale"] = Parameter("float16", (columns,))
    if linear in config.biased_linears:
        parts["bias"] = Parameter(dtype, (rows,))
    return parts
