"""What each linear is given while the backbone reads some text: the input of AWQ.

The text is pushed through one layer at a time, so only that layer's weights are in memory.
"""

import torch
from torch import Tensor

from builders.decoder import DecoderLayer, RiverFormat
from builders.families import ModelConfig
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
        river = RiverFormat(group_size=32, symmetric=True, scaled=frozenset())
        spec = next(self.remaining)
        layer = DecoderLayer(self.config, spec, river)
        layer.assign_backbone(weights)
        inputs: dict[str, Tensor] = {}
        for name, linear in layer.linears().items():
            linear.register_forward_pre_hook(
                lambda _, args, name=name: inputs.update({name: _rows(args[0])})
            )
        texts, tokens, _ = self.h.shape
        cache = torch.zeros(texts, self.config.num_kv_heads, tokens, self.config.head_dim)
        nobody = torch.zeros(texts, tokens, dtype=torch.bool)
        start = torch.zeros(texts, dtype=torch.int32)
        rotary = layer_rotary(self.tables, spec)
        q_scale = query_scale(self.tables, start, nobody)
        self.h = layer(self.h, nobody, cache, cache, start, rotary, q_scale)[0]
        return inputs


def _rows(x: Tensor) -> Tensor:
    rows = x.flatten(0, 1)
    return rows[:: max(1, len(rows) // MAX_ROWS)].clone()
