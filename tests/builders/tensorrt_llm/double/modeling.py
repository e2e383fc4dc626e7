"""Modules, parameters, layers, the pretrained model and its config, as river-trt uses them."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt_rtx as trt
import torch
from safetensors.torch import load_file

from tests.builders.tensorrt_llm.double import functional as F
from tests.builders.tensorrt_llm.double.network import default_net

MODEL_MAP: dict[str, type] = {}


class Parameter:
    def __init__(self, value=None, shape=None, dtype=None, is_buffer=False, prefer_managed=False):
        assert dtype is not None
        self.dtype = F.str_dtype_to_trt(dtype)
        self.shape = tuple(shape if value is None else value.shape)
        self._array: np.ndarray | None = value
        self._tensors: dict[int, Any] = {}

    def is_inited(self) -> bool:
        return self._array is not None

    def is_used_in(self, network) -> bool:
        return id(network) in self._tensors

    @property
    def value(self):
        """The constant of the network under construction, one however often it is asked for."""
        assert self._array is not None, "a parameter that no checkpoint filled"
        net = default_net()
        if id(net) not in self._tensors:
            dtype = trt.bfloat16 if self.dtype == trt.bfloat16 else None
            self._tensors = {id(net): (net, F.constant(self._array, dtype))}
        return self._tensors[id(net)][1]

    @value.setter
    def value(self, loaded: torch.Tensor) -> None:
        if loaded.dtype == torch.bfloat16:
            found, array = trt.bfloat16, loaded.view(torch.int16).numpy()
        else:
            found, array = (
                F.str_dtype_to_trt(str(loaded.dtype).removeprefix("torch.")),
                loaded.numpy(),
            )
        assert tuple(loaded.shape) == self.shape, f"{tuple(loaded.shape)} for {self.shape}"
        assert found == self.dtype, f"{found} for {self.dtype}"
        self._array = array


class Module:
    def __init__(self) -> None:
        self._modules: dict[str, Any] = {}
        self._parameters: dict[str, Any] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Parameter):
            self._parameters[name] = value
        elif isinstance(value, Module):
            self._modules[name] = value
        else:
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        for members in ("_parameters", "_modules"):
            if name in self.__dict__.get(members, {}):
                return self.__dict__[members][name]
        raise AttributeError(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def named_parameters(self, prefix: str = ""):
        for name, parameter in self._parameters.items():
            yield prefix + name, parameter
        for name, module in self._modules.items():
            yield from module.named_parameters(f"{prefix}{name}.")


class ModuleList(Module):
    def __init__(self, modules) -> None:
        super().__init__()
        for index, module in enumerate(modules):
            self._modules[str(index)] = module

    def __getitem__(self, index: int):
        return list(self._modules.values())[index]

    def __len__(self) -> int:
        return len(self._modules)


class RmsNorm(Module):
    def __init__(
        self, normalized_shape, num_groups=1, eps=1e-06, elementwise_affine=True, dtype=None
    ):
        super().__init__()
        self.eps, self.size = eps, normalized_shape
        self.weight = Parameter(shape=(normalized_shape,), dtype=dtype)

    def forward(self, x):
        """One normalization layer of TensorRT in place of TensorRT-LLM's seven."""
        weight = self.weight.value
        assert x.dtype == weight.dtype and x.shape[-1] == self.size
        layer = default_net().trt_network.add_identity(x.trt_tensor)
        normed = torch.nn.functional.rms_norm(x.value, (self.size,), weight.value, self.eps)
        return F._add(layer, normed)


class Embedding(Module):
    def __init__(self, num_embeddings, embedding_dim, dtype=None, tp_size=1, tp_group=None,
                 sharding_dim=0, tp_rank=None):  # fmt: skip
        super().__init__()
        self.weight = Parameter(shape=(num_embeddings, embedding_dim), dtype=dtype)

    def forward(self, x):
        return F.embedding(x, self.weight.value)


class ColumnLinear(Module):
    def __init__(self, in_features, out_features, bias=True, dtype=None, tp_group=None, tp_size=1,
                 gather_output=True, share_weight=None, strict_dtype=False, pad_lda=0,
                 prefer_managed_weight=True, is_qkv=False):  # fmt: skip
        super().__init__()
        assert not bias and out_features % tp_size == 0
        self.tp_group, self.tp_size, self.gather_output = tp_group, tp_size, gather_output
        self.weight = Parameter(shape=(out_features // tp_size, in_features), dtype=dtype)

    def forward(self, x):
        weight = self.weight.value
        none, transpose = trt.MatrixOperation.NONE, trt.MatrixOperation.TRANSPOSE
        layer = default_net().trt_network.add_matrix_multiply(
            x.trt_tensor, none, weight.trt_tensor, transpose
        )
        y = F._add(layer, x.value @ weight.value.T)
        gathers = self.gather_output and self.tp_size > 1
        return F.allgather(y, self.tp_group, gather_dim=-1) if gathers else y


class AttentionParams:
    def __init__(self, sequence_length=None, context_lengths=None, host_context_lengths=None,
                 max_context_length=None, host_request_types=None, encoder_input_lengths=None,
                 encoder_max_input_length=None, host_runtime_perf_knobs=None,
                 host_context_progress=None):  # fmt: skip
        self.sequence_length, self.context_lengths = sequence_length, context_lengths
        self.host_context_lengths, self.max_context_length = (
            host_context_lengths,
            max_context_length,
        )
        self.host_request_types = host_request_types
        self.host_runtime_perf_knobs = host_runtime_perf_knobs
        self.host_context_progress = host_context_progress


class KeyValueCacheParams:
    def __init__(self, past_key_value=None, host_past_key_value_lengths=None,
                 host_max_attention_window_sizes=None, host_sink_token_length=None,
                 kv_cache_block_offsets=None, host_kv_cache_block_offsets=None,
                 host_kv_cache_pool_pointers=None, host_kv_cache_pool_mapping=None,
                 cache_indirection=None):  # fmt: skip
        self.host_past_key_value_lengths = host_past_key_value_lengths
        self.host_max_attention_window_sizes = host_max_attention_window_sizes
        self.host_sink_token_length = host_sink_token_length
        self.kv_cache_block_offsets = kv_cache_block_offsets
        self.host_kv_cache_block_offsets = host_kv_cache_block_offsets
        self.host_kv_cache_pool_pointers = host_kv_cache_pool_pointers
        self.host_kv_cache_pool_mapping = host_kv_cache_pool_mapping
        self.cache_indirection = cache_indirection


class Mapping:
    def __init__(self, world_size=1, rank=0, tp_size=-1, pp_size=1) -> None:
        self.world_size, self.rank = world_size, rank
        self.tp_size, self.pp_size = tp_size, pp_size

    @property
    def tp_rank(self) -> int:
        return self.rank

    @property
    def tp_group(self) -> list[int]:
        return list(range(self.tp_size))


class RuntimeDefaults:
    """bindings.executor.RuntimeDefaults: a C++ object, which nothing can copy, pickle or print."""

    def __init__(self, max_beam_width=None, max_num_tokens=None, max_attention_window=None,
                 sink_token_length=None) -> None:  # fmt: skip
        self.max_attention_window = max_attention_window

    def __reduce_ex__(self, protocol):
        raise TypeError("cannot pickle 'RuntimeDefaults' object")


class PretrainedConfig:
    """models/modeling_utils.py of 1.3.0rc3."""

    def __init__(self, *, architecture: str, dtype: str, hidden_size: int, num_hidden_layers: int,
                 num_attention_heads: int, vocab_size=None, hidden_act="gelu",
                 logits_dtype="float32", norm_epsilon=1e-5,
                 position_embedding_type="learned_absolute", max_position_embeddings=None,
                 rotary_embedding_dim=None, num_key_value_heads=None, intermediate_size=None,
                 mapping=None, quantization=None, use_parallel_embedding=False,
                 embedding_sharding_dim=0, head_size=None, qk_layernorm=False,
                 runtime_defaults=None, **kwargs):  # fmt: skip
        assert not kwargs, f"TensorRT-LLM would warn of {sorted(kwargs)}"
        given = dict(locals())
        for name in ("self", "kwargs", "__class__", "mapping", "position_embedding_type"):
            given.pop(name, None)
        self.__dict__.update(given)
        self.runtime_defaults = self.create_runtime_defaults(runtime_defaults)
        self.position_embedding_type = F.PositionEmbeddingType.from_string(position_embedding_type)
        self.mapping = Mapping(**mapping) if mapping else Mapping()

    @staticmethod
    def create_runtime_defaults(defaults=None):
        return RuntimeDefaults(**defaults) if isinstance(defaults, dict) else defaults

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "PretrainedConfig":
        return MODEL_MAP[config["architecture"]].config_class(**config)

    @classmethod
    def from_json_file(cls, path: str) -> "PretrainedConfig":
        return cls.from_dict(json.loads(Path(path).read_text()))

    def set_rank(self, rank: int) -> None:
        self.mapping.rank = rank

    def to_dict(self) -> dict[str, Any]:
        values = copy.deepcopy(self.__dict__)
        values["position_embedding_type"] = self.position_embedding_type.name
        mapping = self.mapping
        values["mapping"] = {
            name: getattr(mapping, name) for name in ("world_size", "tp_size", "pp_size")
        }
        return values


class DecoderModelForCausalLM(Module):
    def __init__(self, config: PretrainedConfig, transformer: Module, lm_head: Module) -> None:
        super().__init__()
        self.config = config
        self.transformer = transformer
        self.lm_head = lm_head

    @classmethod
    def from_checkpoint(cls, ckpt_dir: str, rank=None, config=None):
        if config is None:
            config = PretrainedConfig.from_json_file(f"{ckpt_dir}/config.json")
        if rank is not None:
            config.set_rank(rank)
        model = cls(config)
        model.load(load_file(Path(ckpt_dir, f"rank{config.mapping.rank}.safetensors")))
        return model

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        """TensorRT-LLM warns of tensors that are left over; here they are an error."""
        parameters = dict(self.named_parameters())
        missing, left = parameters.keys() - weights.keys(), weights.keys() - parameters.keys()
        if missing or left:
            raise RuntimeError(
                f"not provided: {sorted(missing)[:3]}, left over: {sorted(left)[:3]}"
            )
        for name, parameter in parameters.items():
            parameter.value = weights[name]
