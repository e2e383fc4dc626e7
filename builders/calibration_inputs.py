"""What each linear is given while the backbone reads some text: the input of AWQ.

The text is pushed through one layer at a time, so only that layer's weights are in memory.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from builders.decoder import BACKBONE_ONLY, DecoderLayer
from builders.families import ModelConfig
from builders.families.base import LayerSpec
from builders.position_tables import layer_rotary, position_tables, query_scale
from builders.weights import LayerWeights

# Enough rows to fit a scaling to; more cost memory at the widest linear and change little.
MAX_ROWS = 1024


class CalibrationInputs:
    """Hidden states of a batch of texts on their way through the backbone."""

    def __init__(
        self,
        config: ModelConfig,
        embedding: Tensor,
        token_ids: Tensor,  # [texts, tokens]
    ) -> None:
        self.config = config
        # [texts, tokens, hidden]
        self.h = embedding[token_ids].float() * config.embedding_scale
        self.tables = position_tables(config, token_ids.shape[1])
        self.remaining = iter(config.layers)

    def advance(self, weights: LayerWeights) -> dict[str, Tensor]:
        """Run the next layer; returns the inputs of its four linears, float32 [rows, K]."""
        spec = next(self.remaining)
        layer = DecoderLayer(self.config, spec, BACKBONE_ONLY)
        layer.assign_backbone(weights)
        inputs: dict[str, Tensor] = {}
        for name, linear in layer.linears().items():
            linear.register_forward_pre_hook(
                lambda _, args, name=name: inputs.update({name: _rows(args[0])})
            )
        self.h = run_layer(layer, self.config, spec, self.tables, self.h, on_river=False)
        return inputs


def run_layer(
    layer: DecoderLayer,
    config: ModelConfig,
    spec: LayerSpec,
    tables: Mapping[str, Tensor],
    h: Tensor,  # [texts, tokens, hidden]: what the layer is given
    on_river: bool,
) -> Tensor:
    """What one bank of a layer makes of whole texts, [texts, tokens, hidden]."""
    texts, tokens, _ = h.shape
    cache = torch.zeros(texts, config.num_kv_heads, tokens, config.head_dim)
    flags = torch.full((texts, tokens), on_river)
    start = torch.zeros(texts, dtype=torch.int32)
    q_scale = query_scale(tables, start, flags)
    out: Tensor = layer(h, flags, cache, cache, start, layer_rotary(tables, spec), q_scale)[0]
    return out


def _rows(x: Tensor) -> Tensor:
    rows = x.flatten(0, 1)
    return rows[:: max(1, len(rows) // MAX_ROWS)].clone()
