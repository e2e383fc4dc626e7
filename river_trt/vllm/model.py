"""RiverForCausalLM: every family that the dialect holds, as one vLLM model class.

input_ids -> embedding -> [ layer 1 ] -> ... -> [ layer L ] -> norm -> lm_head
                                                     \\-- exit layers, kept for the statistics

one layer ("select, then attend"; some families norm the outputs of attention and MLP too):

h --+-- norm -- qkv(bank) -- vLLM's attention -- o(bank) --(+)-- norm -- MLP(bank) --(+)-- h'
    |                                                       |                         |
    +-------------------------------------------------------+            gate(h, h') -+- exited

Prompts stay on the backbone. tau, pins and which tokens are generated come as tensors, so a step's
shape says all that a compiler or a CUDA graph must know.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import GemmaRMSNorm, RMSNorm
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    VocabParallelEmbedding,
)
from vllm.model_executor.model_loader.weight_utils import default_weight_loader
from vllm.sequence import IntermediateTensors

from river_trt.backends.torch.fakes import register_fakes
from river_trt.backends.torch.operators import load_operators
from river_trt.backends.torch.tuning import use_tuned
from river_trt.errors import CheckpointError
from river_trt.river_checkpoint import RiverCheckpoint, RopeInfo
from river_trt.vllm import statistics
from river_trt.vllm.linear import RiverLinear
from river_trt.vllm.requests import StepPolicies, policies_of
from river_trt.vllm.serving_config import read_checkpoint, read_settings
from river_trt.vllm.sharding import heads_of

LEAST_NORM = 1e-30


class RiverRotary(RotaryEmbedding):
    """vLLM's rotary embedding with the angles that the checkpoint states."""

    def __init__(self, rope: RopeInfo, head_dim: int, positions: int, dtype: torch.dtype) -> None:
        self.rope = rope
        super().__init__(head_dim, 2 * len(rope.inv_freq), positions, 1.0, True, dtype)

    def _compute_inv_freq(self, base: float) -> Tensor:
        del base
        return torch.tensor(self.rope.inv_freq, dtype=torch.float32)

    def _compute_cos_sin_cache(self) -> Tensor:
        cache: Tensor = super()._compute_cos_sin_cache()
        return cache * self.rope.factor


class RiverAttention(nn.Module):
    """vLLM's attention over the layer's one cache, between linears of two banks."""

    def __init__(
        self,
        vllm_config: VllmConfig,
        checkpoint: RiverCheckpoint,
        layer: int,
        rounds: bool,
        prefix: str,
    ) -> None:
        super().__init__()
        ranks = vllm_config.parallel_config.tensor_parallel_size
        heads, kv_heads = heads_of(checkpoint, ranks)
        size = checkpoint.head_dim
        self.sizes = [heads * size, kv_heads * size, kv_heads * size]
        self.head_dim = size
        self.qkv_proj = RiverLinear(checkpoint, "qkv", layer, rounds)
        self.o_proj = RiverLinear(checkpoint, "o", layer, rounds)
        self.q_norm = self.k_norm = None
        if checkpoint.qk_norms:
            self.q_norm, self.k_norm = make_norm(checkpoint, size), make_norm(checkpoint, size)
        self.query_beta, self.query_period = checkpoint.query_beta, checkpoint.query_period
        self.attn = Attention(
            heads,
            size,
            checkpoint.attention_scale,
            num_kv_heads=kv_heads,
            cache_config=vllm_config.cache_config,
            logits_soft_cap=checkpoint.attention_softcap,
            per_layer_sliding_window=checkpoint.layers[layer].window,
            prefix=f"{prefix}.attn",
        )

    def forward(
        self, x: Tensor, use_river: Tensor | None, positions: Tensor, rotary: nn.Module | None
    ) -> Tensor:
        q, k, v = self.qkv_proj(x, use_river).split(self.sizes, dim=-1)
        if self.q_norm is not None and self.k_norm is not None:
            q = self.q_norm(q.unflatten(-1, (-1, self.head_dim))).flatten(-2)
            k = self.k_norm(k.unflatten(-1, (-1, self.head_dim))).flatten(-2)
        if self.query_beta:
            steps = torch.floor(positions / self.query_period)
            q = (q * (1 + self.query_beta * torch.log1p(steps))[:, None]).to(x.dtype)
        if rotary is not None:
            q, k = rotary(positions, q.contiguous(), k.contiguous())
        y: Tensor = self.o_proj(self.attn(q, k, v), use_river)
        return y


class RiverMLP(nn.Module):
    """down(activation(gate(x)) * up(x)), gate and up in one linear."""

    def __init__(self, checkpoint: RiverCheckpoint, layer: int, rounds: bool) -> None:
        super().__init__()
        self.gate_up_proj = RiverLinear(checkpoint, "gate_up", layer, rounds)
        self.down_proj = RiverLinear(checkpoint, "down", layer, rounds)
        silu = checkpoint.activation == "silu"
        self.activation = SiluAndMul() if silu else GeluAndMul(approximate="tanh")

    def forward(self, x: Tensor, use_river: Tensor | None) -> Tensor:
        y: Tensor = self.down_proj(self.activation(self.gate_up_proj(x, use_river)), use_river)
        return y


class RiverLayer(nn.Module):
    """One block over both banks."""

    def __init__(
        self,
        vllm_config: VllmConfig,
        checkpoint: RiverCheckpoint,
        layer: int,
        rounds: bool,
        prefix: str,
    ) -> None:
        super().__init__()
        hidden = checkpoint.hidden_size
        self.input_norm = make_norm(checkpoint, hidden)
        self.self_attn = RiverAttention(
            vllm_config, checkpoint, layer, rounds, f"{prefix}.self_attn"
        )
        self.post_attention_norm = make_norm(checkpoint, hidden)
        self.mlp = RiverMLP(checkpoint, layer, rounds)
        self.attention_out_norm: nn.Module = nn.Identity()
        self.mlp_out_norm: nn.Module = nn.Identity()
        if checkpoint.sandwich_norms:
            self.attention_out_norm = make_norm(checkpoint, hidden)
            self.mlp_out_norm = make_norm(checkpoint, hidden)

    def forward(
        self, h: Tensor, use_river: Tensor | None, positions: Tensor, rotary: nn.Module | None
    ) -> Tensor:
        attended = self.self_attn(self.input_norm(h), use_river, positions, rotary)
        h = h + self.attention_out_norm(attended)
        mlp_out = self.mlp(self.post_attention_norm(h), use_river)
        h_out: Tensor = h + self.mlp_out_norm(mlp_out)
        return h_out


@support_torch_compile(
    dynamic_arg_dims={"input_ids": 0, "positions": 0, "tau": 0, "pinned": 0, "generated": 0}
)
class RiverModel(nn.Module):
    """Embedding, the layers with the gate between them, the final norm."""

    directions: Tensor

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.checkpoint = checkpoint = read_checkpoint(vllm_config)
        rounds = read_settings(vllm_config, checkpoint).river_activation == "int8"
        model = vllm_config.model_config
        dtype = model.dtype
        self.embed_tokens = VocabParallelEmbedding(checkpoint.vocab_size, checkpoint.hidden_size)
        scale = torch.tensor(checkpoint.embedding_scale, dtype=dtype)
        self.register_buffer("embedding_scale", scale, persistent=False)
        self.rotaries = nn.ModuleList(
            RiverRotary(rope, checkpoint.head_dim, model.max_model_len, dtype)
            for rope in checkpoint.ropes
        )
        self.layers = nn.ModuleList(
            RiverLayer(vllm_config, checkpoint, layer, rounds, f"{prefix}.layers.{layer}")
            for layer in range(checkpoint.num_layers)
        )
        self.norm = make_norm(checkpoint, checkpoint.hidden_size)
        if checkpoint.directed:
            shape = (checkpoint.num_layers, checkpoint.hidden_size)
            values = nn.Parameter(torch.empty(shape, dtype=torch.float32), requires_grad=False)
            self.register_parameter("directions", values)

    def forward(
        self,
        input_ids: Tensor,  # [tokens]
        positions: Tensor,  # [tokens]
        tau: Tensor,  # float32 [tokens, L]
        pinned: Tensor,  # bool [tokens, L]
        generated: Tensor,  # bool [tokens]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normed hidden states [tokens, hidden]; exit layers, backbone layers int32 [tokens]."""
        checkpoint = self.checkpoint
        h = self.embed_tokens(input_ids)
        if checkpoint.embedding_scale != 1.0:
            h = h * self.embedding_scale
        exited = torch.zeros_like(generated)
        use_river: Tensor | None = None
        exit_layer = torch.full_like(input_ids, checkpoint.num_layers, dtype=torch.int32)
        backbone = exit_layer
        for index, (info, layer) in enumerate(zip(checkpoint.layers, self.layers, strict=True)):
            rotary = None if info.rope is None else self.rotaries[info.rope]
            h_in = h
            h = layer(h_in, use_river, positions, rotary)
            if index + 1 == checkpoint.num_layers:
                break  # whoever leaves after the last layer has run them all
            reference = self.directions[index] if checkpoint.directed else h_in
            exited = exited | (generated & (cosine(reference, h) > tau[:, index]))
            use_river = exited & ~pinned[:, index + 1]
            exit_layer = exit_layer - exited.int()
            backbone = backbone - use_river.int()
        return self.norm(h), exit_layer, backbone


class RiverForCausalLM(nn.Module):
    """What vLLM loads for `architectures: ["RiverForCausalLM"]`."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        """Raises RiverError where the kernels' operators are neither there nor can be compiled."""
        super().__init__()
        device = vllm_config.device_config.device
        assert device is not None
        load_operators(device.type)
        register_fakes(device.type)
        if device.type == "cuda":
            use_tuned()
        self.checkpoint = checkpoint = read_checkpoint(vllm_config)
        self.config = vllm_config.model_config.hf_config
        self.policies = policies_of(vllm_config, device)
        self.model = RiverModel(
            vllm_config=vllm_config, prefix=f"{prefix}.model" if prefix else "model"
        )
        self.lm_head = ParallelLMHead(checkpoint.vocab_size, checkpoint.hidden_size)
        if checkpoint.tie_embeddings:
            self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)
        self.logits_processor = LogitsProcessor(
            checkpoint.vocab_size, soft_cap=checkpoint.final_softcap
        )
        self.totals = torch.zeros(2, dtype=torch.int64, device=device)  # of statistics
        self._published = statistics.open_totals()
        self._slot = vllm_config.parallel_config.data_parallel_rank

    @classmethod
    def get_model_state_cls(cls) -> Any:
        """Model runner V2 asks for it."""
        from river_trt.vllm.requests_v2 import RiverModelState

        return RiverModelState

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        """[tokens, hidden]"""
        h: Tensor = self.model.embed_tokens(input_ids)
        return h

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
        tau: Tensor | None = None,  # with the next two: model runner V2, which asks the state
        pinned: Tensor | None = None,
        generated: Tensor | None = None,
    ) -> Tensor:
        """Normed hidden states [tokens, hidden]."""
        assert intermediate_tensors is None and inputs_embeds is None
        if tau is not None and pinned is not None and generated is not None:
            step = StepPolicies(tau, pinned, generated)
            hidden, _, backbone = self._run(input_ids, positions, step)
            self._count(backbone, generated)
            return hidden
        return self._forward_v1(input_ids, positions)

    def _forward_v1(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        tokens = len(input_ids)
        metadata = get_forward_context().attn_metadata
        if metadata is None:  # a warm-up
            step = self.policies.idle(tokens)
            hidden, *_ = self._run(input_ids, positions, step)
            return hidden
        assert isinstance(metadata, dict)
        starts = next(iter(metadata.values())).query_start_loc.cpu().numpy()
        rows = np.arange(len(starts) - 1)
        step = self.policies.step(rows, starts, positions.cpu(), tokens)
        hidden, exit_layer, backbone = self._run(input_ids, positions, step)
        if self.policies.is_tracing:
            self.policies.keep_traces(rows, starts, positions, exit_layer)
        self._count(backbone, step.generated)
        if self._published is not None:
            self._published[self._slot] = self.totals.tolist()
        return hidden

    def _run(
        self, input_ids: Tensor, positions: Tensor, step: StepPolicies
    ) -> tuple[Tensor, Tensor, Tensor]:
        found: tuple[Tensor, Tensor, Tensor] = self.model(
            input_ids, positions, step.tau, step.pinned, step.generated
        )
        return found

    def _count(self, backbone: Tensor, generated: Tensor) -> None:
        self.totals[statistics.TOKENS] += generated.sum()
        self.totals[statistics.LAYERS] += (backbone * generated).sum()

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """[tokens, vocab]"""
        logits: Tensor | None = self.logits_processor(self.lm_head, hidden_states)
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Take this rank's parts and bring them into the kernels' layouts.

        Raises CheckpointError for tensors too many, too few, or of another shape.
        """
        expected = self.checkpoint.tensors("float32")  # the names and shapes
        modules = dict(self.named_modules())
        parameters = dict(self.named_parameters())
        loaded: set[str] = set()
        for name, tensor in weights:
            if name not in expected:
                raise CheckpointError(f"the River checkpoint holds an unknown tensor {name}")
            if tuple(tensor.shape) != expected[name][1]:
                raise CheckpointError(
                    f"{name} has shape {list(tensor.shape)}, but config.json asks for "
                    f"{list(expected[name][1])}"
                )
            path, _, part = name.rpartition(".")
            module = modules[path]
            if isinstance(module, RiverLinear):
                module.load(part, tensor)
            elif isinstance(module, GemmaRMSNorm):
                module.weight.data.copy_(tensor - self.checkpoint.norm_offset)
            else:
                parameter = parameters[name]
                load = getattr(parameter, "weight_loader", default_weight_loader)
                load(parameter, tensor)
            loaded.add(name)
        if missing := sorted(expected.keys() - loaded):
            raise CheckpointError(f"the River checkpoint lacks the tensor {missing[0]}")
        for module in modules.values():
            if isinstance(module, RiverLinear):
                module.pack()
        return loaded


def make_norm(checkpoint: RiverCheckpoint, size: int) -> nn.Module:
    """vLLM's own; Gemma's keeps its weight without the 1 that it adds in float32."""
    kind = GemmaRMSNorm if checkpoint.norm_offset else RMSNorm
    norm: nn.Module = kind(size, eps=checkpoint.norm_eps)
    return norm


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """cos(a, b) over the last axis in float32; 0 where either vector is zero."""
    a, b = a.float(), b.float()
    norms = ((a * a).sum(-1) * (b * b).sum(-1)).sqrt()
    return (a * b).sum(-1) / norms.clamp_min(LEAST_NORM)
