"""RiverForCausalLM: a River model as a TensorRT-LLM network, registered by importing this file.

input_ids -> embedding -> [ layer 1 ] -> ... -> [ layer L ] -> ln_f -> last tokens -> lm_head
                                                         \\-- exit_layer of the last tokens

one layer ("select, then attend"; some families norm the outputs of attention and MLP too):

h --+-- input_layernorm, qkv(bank) -- gpt_attention on slot l -- o(bank) --(+)--+-- ...
    +--------------------------------------------------------------------/      |
... -- post_layernorm, fc(bank), act -- proj(bank) ------------- RiverGate(h, ...) -- h', flags
"""

from typing import Any

import numpy as np
from tensorrt_llm._common import default_net
from tensorrt_llm.functional import (
    Tensor,
    arange,
    cast,
    chunk,
    concat,
    constant,
    eq,
    gather_last_token_logits,
    gelu,
    gt,
    index_select,
    shape,
    squeeze,
    tanh,
    unsqueeze,
)
from tensorrt_llm.functional import sum as sum_over
from tensorrt_llm.layers import (
    AttentionParams,
    ColumnLinear,
    Embedding,
    KeyValueCacheParams,
    RmsNorm,
)
from tensorrt_llm.models import MODEL_MAP
from tensorrt_llm.models.modeling_utils import DecoderModelForCausalLM
from tensorrt_llm.module import Module, ModuleList

from builders.tensorrt_llm.attention import RiverAttention, Rotary, make_rotary, query_scale
from builders.tensorrt_llm.config import RiverConfig
from builders.tensorrt_llm.layers import ExitFlags, ExitGates, RiverLinear, Switches
from builders.tensorrt_llm.river_section import ARCHITECTURE
from river_trt.backends.tensorrt_llm import EXIT_LAYER
from river_trt.errors import RiverError


class RiverMLP(Module):
    """down(activation(gate(x)) * up(x)), gate and up in one linear."""

    def __init__(self, config: RiverConfig, layer: int) -> None:
        super().__init__()
        size = config.intermediate_size // config.mapping.tp_size
        self.silu = config.hidden_act == "silu"
        self.fc = RiverLinear(config, layer, "gate_up", config.hidden_size, 2 * size)
        self.proj = RiverLinear(config, layer, "down", size, config.hidden_size)

    def forward(self, x: Tensor, use_river: Tensor | None, norm: RmsNorm) -> Tensor:
        if self.silu:
            return self.proj(self.fc(x, use_river, norm=norm, silu_mul=True), use_river)
        gate, up = chunk(self.fc(x, use_river, norm=norm), 2, dim=2)
        return self.proj(gelu(gate) * up, use_river)


class RiverLayer(Module):
    """One block over both banks."""

    def __init__(self, config: RiverConfig, layer: int) -> None:
        super().__init__()
        self.sandwich = config.river.sandwich_norms
        names = ["input_layernorm", "post_layernorm"]
        if self.sandwich:
            names += ["attention_out_layernorm", "mlp_out_layernorm"]
        for name in names:
            norm = RmsNorm(
                normalized_shape=config.hidden_size, eps=config.norm_epsilon, dtype=config.dtype
            )
            setattr(self, name, norm)
        self.attention = RiverAttention(config, layer)
        self.mlp = RiverMLP(config, layer)

    def forward(
        self,
        h: Tensor,  # [1, tokens, hidden]
        use_river: Tensor | None,
        rotary: Rotary | None,
        scale: Tensor | None,
        kv_cache_params: KeyValueCacheParams,
        attention_params: AttentionParams,
    ) -> tuple[Tensor, Tensor]:
        """(residual, delta): their sum is the block's output, which the gate forms."""
        attended = self.attention(
            h,
            use_river,
            self.input_layernorm,
            rotary,
            scale,
            kv_cache_params,
            attention_params,
            None if self.sandwich else h,
        )
        residual = h + self.attention_out_layernorm(attended) if self.sandwich else attended
        delta = self.mlp(residual, use_river, self.post_layernorm)
        return residual, self.mlp_out_layernorm(delta) if self.sandwich else delta


class RiverModel(Module):
    """Embedding, the layers with the gate's state threaded through them, the final norm."""

    def __init__(self, config: RiverConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_embedding = Embedding(
            num_embeddings=config.vocab_size, embedding_dim=config.hidden_size, dtype=config.dtype
        )
        self.layers = ModuleList(
            [RiverLayer(config, layer) for layer in range(config.num_hidden_layers)]
        )
        self.exit_policy = ExitGates(config)
        self.ln_f = RmsNorm(
            normalized_shape=config.hidden_size, eps=config.norm_epsilon, dtype=config.dtype
        )

    def forward(
        self,
        input_ids: Tensor,  # [tokens]
        position_ids: Tensor,  # [tokens]
        last_token_ids: Tensor,  # [sequences]: tokens up to and with each sequence's last
        kv_cache_params: KeyValueCacheParams,
        attention_params: AttentionParams,
    ) -> tuple[Tensor, Tensor]:
        """Normed hidden states [tokens, hidden] and exit_layer [tokens, 1] int32."""
        config, river = self.config, self.config.river
        h = unsqueeze(self.vocab_embedding(input_ids), 0)
        if river.embedding_scale != 1.0:
            h = h * river.embedding_scale
        generated = generated_tokens(input_ids, last_token_ids, attention_params.context_lengths)
        zero, one = (constant(np.array([value], np.int32)) for value in (0, 1))
        switches = Switches(zero, one, generated)
        rotaries = [make_rotary(rope, config.max_position_embeddings) for rope in river.ropes]
        scale = query_scale(config, position_ids)
        state = ExitFlags()
        for layer, (block, rope) in enumerate(zip(self.layers, river.layer_ropes, strict=True)):
            rotary = None if rope is None else rotaries[rope]
            residual, delta = block(
                h, state.use_river, rotary, scale, kv_cache_params, attention_params
            )
            h, state = self.exit_policy.gate(layer, h, residual, delta, state, switches)
        assert state.exit_layer is not None
        # A prompt's tokens ran all layers, whatever their gates said.
        exit_layer = (state.exit_layer - len(self.layers)) * generated + len(self.layers)
        return self.ln_f(squeeze(h, 0)), unsqueeze(squeeze(exit_layer, 0), 1)


class RiverForCausalLM(DecoderModelForCausalLM):
    """What trtllm-build and tensorrt_llm.builder.build take."""

    config_class = RiverConfig

    def __init__(self, config: RiverConfig) -> None:
        ranks = config.mapping.tp_size
        if config.mapping.world_size != ranks:
            raise RiverError(
                f"a River network is split by tensor parallelism only, not over "
                f"{config.mapping.world_size} GPUs with tp_size {ranks}"
            )
        lm_head = ColumnLinear(
            in_features=config.hidden_size,
            out_features=-(-config.vocab_size // ranks) * ranks,
            bias=False,
            dtype=config.dtype,
            tp_group=config.mapping.tp_group,
            tp_size=ranks,
            gather_output=True,
        )
        super().__init__(config, RiverModel(config), lm_head)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        use_cache: bool = False,
        last_token_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        kv_cache_params: KeyValueCacheParams | None = None,
        attention_params: AttentionParams | None = None,
        **unsupported: Any,  # LoRA, prompt tuning, speculative decoding, ...
    ) -> tuple[Tensor, Tensor]:
        """Logits of each sequence's last token, and the layer where its backbone ended."""
        assert last_token_ids is not None
        _check_network(use_cache, {"attention_mask": attention_mask, **unsupported})
        hidden, exit_layer = self.transformer(
            input_ids, position_ids, last_token_ids, kv_cache_params, attention_params
        )
        last = gather_last_token_logits(hidden, last_token_ids, True)
        logits = self.lm_head(last)
        softcap = self.config.river.final_softcap
        if softcap is not None:
            logits = tanh(logits * (1.0 / softcap)) * softcap
        logits.mark_output("logits", self.config.logits_dtype)
        # One row a sequence, as the executor wants an output that is not gathered over prompts.
        exit_layer = index_select(exit_layer, 0, last_token_ids - 1)
        exit_layer.mark_output(EXIT_LAYER, "int32")
        return logits, exit_layer


def generated_tokens(
    input_ids: Tensor,  # [tokens]
    last_token_ids: Tensor,  # [sequences]
    context_lengths: Tensor,  # [sequences]: tokens of this chunk of a prompt, or of all of it
) -> Tensor:
    """[1, tokens] int32: 1 for a token at or after its sequence's prompt, 0 within the prompt.

    Request types are host tensors, which a network cannot compute with; these three are not. A
    sequence in its prompt has as many tokens in the step as its context_lengths says: the chunk's.
    One that generates has a single token, and the length of its prompt there. After a prompt of one
    token the two look alike, and the backbone runs: exact, but without the river's speed.
    """
    count = shape(input_ids, 0, cast_to_dtype="int32")
    numbers = arange(constant(np.array(0, np.int32)), count, "int32") + 1  # [tokens] 1, 2, ...
    passed = cast(gt(unsqueeze(numbers, 1), unsqueeze(last_token_ids, 0)), "int32")
    sequence = sum_over(passed, dim=1)  # sequences that end before the token
    starts = concat([constant(np.array([0], np.int32)), last_token_ids])
    begin, end = (index_select(ends, 0, sequence) for ends in (starts, last_token_ids))
    in_prompt = eq(index_select(context_lengths, 0, sequence), end - begin)
    return unsqueeze(1 - cast(in_prompt, "int32"), 0)


def _check_network(use_cache: bool, unsupported: dict[str, Any]) -> None:
    plugins = default_net().plugin_config
    for name, wanted in (
        ("gpt_attention_plugin", plugins.gpt_attention_plugin),
        ("remove_input_padding", plugins.remove_input_padding),
        ("paged_kv_cache", plugins.paged_kv_cache and use_cache),
    ):
        if not wanted:
            raise RiverError(f"a River network needs {name}; leave it enabled")
    for name, value in unsupported.items():
        if value is not None:
            raise RiverError(f"a River network takes no {name}")


MODEL_MAP[ARCHITECTURE] = RiverForCausalLM
