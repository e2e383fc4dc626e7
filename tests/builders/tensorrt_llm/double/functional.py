"""tensorrt_llm.functional: the functions that river-trt calls, with 1.2's signatures."""

# ruff: noqa: A001, A002 (TensorRT-LLM's names)
import math
from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import tensorrt_rtx as trt
import torch

from tests.builders.tensorrt_llm.double.gpt_attention import attend, check_attention
from tests.builders.tensorrt_llm.double.network import KINDS, Event, default_net, default_trtnet

NUMPY_TYPES = {
    "float32": trt.float32,
    "float16": trt.float16,
    "int32": trt.int32,
    "int64": trt.int64,
}


class PositionEmbeddingType(IntEnum):
    learned_absolute = 0
    rope_gptj = 1
    rope_gpt_neox = 2

    @staticmethod
    def from_string(text: str) -> "PositionEmbeddingType":
        return PositionEmbeddingType[text]


class AttentionMaskType(IntEnum):
    padding = 0
    causal = 1


def str_dtype_to_trt(dtype):
    return {"float16": trt.float16, "bfloat16": trt.bfloat16, "float32": trt.float32,
            "int32": trt.int32, "int64": trt.int64, "bool": trt.bool}[dtype]  # fmt: skip


class Tensor:
    """A TensorRT tensor and its value; types and known sizes of the two must agree."""

    def __init__(self, trt_tensor, value: torch.Tensor) -> None:
        assert value.dtype == KINDS[trt_tensor.dtype], (value.dtype, trt_tensor.dtype)
        shape = tuple(trt_tensor.shape)  # TensorRT infers it here, and raises where it cannot
        assert len(shape) == value.ndim, (shape, value.shape)
        for known, size in zip(shape, value.shape, strict=True):
            assert known in (-1, size), (shape, value.shape)
        self.trt_tensor, self.value = trt_tensor, value

    @property
    def dtype(self):
        return self.trt_tensor.dtype

    @property
    def shape(self):
        return tuple(self.trt_tensor.shape)

    def rank(self) -> int:
        return len(self.shape)

    def __add__(self, other):
        return _elementwise(self, other, trt.ElementWiseOperation.SUM, torch.add)

    def __sub__(self, other):
        return _elementwise(self, other, trt.ElementWiseOperation.SUB, torch.sub)

    def __rsub__(self, other):
        return _elementwise(other, self, trt.ElementWiseOperation.SUB, torch.sub)

    def __mul__(self, other):
        return _elementwise(self, other, trt.ElementWiseOperation.PROD, torch.mul)

    def view(self, shape, zero_is_placeholder=True):
        layer = default_trtnet().add_shuffle(self.trt_tensor)
        layer.zero_is_placeholder = zero_is_placeholder
        if isinstance(shape, Tensor):
            layer.set_input(1, shape.trt_tensor)
            return _add(layer, self.value.reshape(shape.value.tolist()))
        layer.reshape_dims = tuple(shape)
        return _add(layer, self.value.reshape(tuple(shape)))

    def cast(self, dtype):
        return cast(self, dtype)

    def mark_output(self, name=None, dtype=None) -> None:
        net = default_net()
        tensor = self if dtype is None else self.cast(dtype)
        if tensor.trt_tensor.is_network_input:  # TensorRT wants a layer's output
            layer = net.trt_network.add_identity(tensor.trt_tensor)
            tensor = _add(layer, tensor.value)
        assert name not in net.outputs, f"two outputs {name}"
        tensor.trt_tensor.name = name
        net.definition.mark_output(tensor.trt_tensor)
        net.outputs[name] = tensor


def _create_tensor(trt_tensor, producer) -> Tensor:
    assert trt_tensor is not None and producer is not None
    return Tensor(trt_tensor, default_net().values[trt_tensor.name])


def _add(layer, value: torch.Tensor) -> Tensor:
    output = layer.get_output(0)
    default_net().values[output.name] = value
    return _create_tensor(output, layer)


def constant(ndarray: np.ndarray, as_dtype=None, as_shape=None) -> Tensor:
    assert isinstance(ndarray, np.ndarray) and as_shape is None
    dtype = NUMPY_TYPES[ndarray.dtype.name] if as_dtype is None else as_dtype
    net = default_net()
    kept = np.ascontiguousarray(ndarray)
    net.constants.append(kept)
    weights = trt.Weights(dtype, kept.ctypes.data, kept.size)
    layer = net.trt_network.add_constant(ndarray.shape, weights)
    if dtype == trt.bfloat16:  # two bytes each, which numpy has no type for
        value = torch.from_numpy(kept.view(np.int16)).view(torch.bfloat16).float()
    else:
        value = torch.from_numpy(kept).to(KINDS[dtype])
    return _add(layer, value.reshape(ndarray.shape))


def cast(input: Tensor, dtype) -> Tensor:
    target = str_dtype_to_trt(dtype) if isinstance(dtype, str) else dtype
    if input.dtype == target:
        return input
    layer = default_trtnet().add_cast(input.trt_tensor, target)
    return _add(layer, input.value.to(KINDS[target]))


def _scalar(value, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if like.dtype == trt.bfloat16:
        bits = torch.tensor([value], dtype=torch.bfloat16).view(torch.int16).numpy()
        return constant(bits, trt.bfloat16)
    names = {kind: name for name, kind in NUMPY_TYPES.items()}
    return constant(np.array([value], names[like.dtype]))


def _elementwise(left, right, operation, compute) -> Tensor:
    like = left if isinstance(left, Tensor) else right
    left, right = _scalar(left, like), _scalar(right, like)
    wide = max(left.rank(), right.rank())
    left, right = (
        side.view([1] * (wide - side.rank()) + list(side.shape)) if side.rank() < wide else side
        for side in (left, right)
    )
    layer = default_trtnet().add_elementwise(left.trt_tensor, right.trt_tensor, operation)
    return _add(layer, compute(left.value, right.value))


def gt(left, right) -> Tensor:
    return _elementwise(left, right, trt.ElementWiseOperation.GREATER, torch.gt)


def eq(left, right) -> Tensor:
    return _elementwise(left, right, trt.ElementWiseOperation.EQUAL, torch.eq)


def shape(input: Tensor, dim=None, cast_to_dtype=None, clip_before_cast=None) -> Tensor:
    layer = default_trtnet().add_shape(input.trt_tensor)
    sizes = _add(layer, torch.tensor(input.value.shape))
    if cast_to_dtype is not None:
        sizes = cast(sizes, cast_to_dtype)
    if dim is None:
        return sizes
    return index_select(sizes, 0, constant(np.array([dim], np.int32))).view([])


def concat(inputs: Sequence, dim: int = 0) -> Tensor:
    parts = []
    for part in inputs:
        if not isinstance(part, Tensor):
            part = constant(np.array([part], np.int64))
        parts.append(part.view([1]) if part.rank() == 0 else part)
    layer = default_trtnet().add_concatenation([part.trt_tensor for part in parts])
    layer.axis = dim
    return _add(layer, torch.cat([part.value for part in parts], dim))


def split(tensor: Tensor, split_size_or_sections, dim: int = 0) -> list[Tensor]:
    sizes, start, parts = split_size_or_sections, 0, []
    total = tensor.shape[dim]
    assert total != -1, "the axis that is split must be known"
    if isinstance(sizes, int):
        sizes = [sizes] * (total // sizes)
    assert math.fsum(sizes) == total
    for size in sizes:
        begin = [0] * tensor.rank()
        begin[dim] = start
        layer = default_trtnet().add_slice(
            tensor.trt_tensor, start=begin, shape=[1] * len(begin), stride=[1] * len(begin)
        )
        extent = [shape(tensor, axis) for axis in range(tensor.rank())]
        extent[dim] = size
        layer.set_input(2, concat(extent).trt_tensor)
        part = _add(layer, tensor.value.narrow(dim, start, size).contiguous())
        parts.append(part)
        start += size
    return parts


def chunk(tensor: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    assert tensor.shape[dim] % chunks == 0
    return split(tensor, tensor.shape[dim] // chunks, dim)


def unsqueeze(input: Tensor, axis: int) -> Tensor:
    parts = [shape(input, dim) for dim in range(input.rank())]
    parts.insert(axis, 1)
    return input.view(concat(parts), zero_is_placeholder=False)


def squeeze(input: Tensor, dim=None, zero_is_placeholder: bool = False) -> Tensor:
    assert input.shape[dim] == 1, f"axis {dim} of {input.shape}"
    parts = [shape(input, axis) for axis in range(input.rank()) if axis != dim]
    return input.view(concat(parts), zero_is_placeholder=False)


def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    assert index.rank() == 1
    layer = default_trtnet().add_gather(input.trt_tensor, index.trt_tensor, dim)
    return _add(layer, input.value.index_select(dim, index.value.long()))


def embedding(input: Tensor, weight: Tensor, tp_size=1, tp_group=None, sharding_dim=0,
              tp_rank=None, per_token_scale=None, padding=None) -> Tensor:  # fmt: skip
    assert tp_size == 1
    layer = default_trtnet().add_gather(weight.trt_tensor, input.trt_tensor, 0)
    return _add(layer, weight.value[input.value.long()])


def arange(start: Tensor, end: Tensor, dtype: str) -> Tensor:
    assert start.rank() == end.rank() == 0 and start.dtype == end.dtype == str_dtype_to_trt(dtype)
    count = (end - start).view([1]).cast("int64")
    layer = default_trtnet().add_fill([0], trt.FillOperation.LINSPACE, str_dtype_to_trt(dtype))
    layer.set_input(0, count.trt_tensor)
    layer.set_input(1, start.trt_tensor)
    layer.set_input(2, constant(np.array([1], np.int32)).trt_tensor)
    values = torch.arange(int(start.value), int(end.value), dtype=KINDS[start.dtype])
    return _add(layer, values)


def sum(input: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    operation = trt.ReduceOperation.SUM
    layer = default_trtnet().add_reduce(input.trt_tensor, operation, 1 << dim, keep_dims=keepdim)
    return _add(layer, input.value.sum(dim, keepdim=keepdim).to(input.value.dtype))


def tanh(input: Tensor) -> Tensor:
    layer = default_trtnet().add_activation(input.trt_tensor, trt.ActivationType.TANH)
    return _add(layer, input.value.tanh())


def gelu(x: Tensor) -> Tensor:
    layer = default_trtnet().add_activation(x.trt_tensor, trt.ActivationType.GELU_TANH)
    return _add(layer, torch.nn.functional.gelu(x.value, approximate="tanh"))


def allreduce(tensor: Tensor, group: list[int], all_reduce_params=None) -> Tensor:
    net = default_net()
    assert net.exchange is not None and len(group) > 1
    parts = net.exchange(tensor.value)
    total = torch.stack(parts).sum(0)
    placed = net.placeholder("AllReduce", tensor.dtype, tensor.shape, total)
    return Tensor(placed, total)


def allgather(tensor: Tensor, group: list[int], gather_dim: int = 0) -> Tensor:
    net = default_net()
    parts = net.exchange(tensor.value)
    joined = torch.cat(parts, gather_dim)
    sizes = list(tensor.shape)
    sizes[gather_dim] *= len(group)
    return Tensor(net.placeholder("AllGather", tensor.dtype, sizes, joined), joined)


def gather_last_token_logits(hidden_states: Tensor, last_token_ids: Tensor,
                             remove_input_padding: bool) -> Tensor:  # fmt: skip
    assert remove_input_padding
    return index_select(hidden_states, 0, last_token_ids - 1)


def gpt_attention(
    *,
    qkv: Tensor,
    past_key_value,
    attention_mask=None,
    attention_packed_mask=None,
    sequence_length: Tensor,
    host_past_key_value_lengths: Tensor,
    host_max_attention_window_sizes: Tensor,
    host_sink_token_length: Tensor,
    context_lengths: Tensor,
    cache_indirection: Tensor,
    host_request_types: Tensor,
    layer_idx: int,
    num_heads: int,
    num_kv_heads: int,
    hidden_size_per_head: int,
    q_scaling: float,
    attn_logit_softcapping_scale: float = 0.0,
    rotary_embedding_dim: int = 0,
    rotary_embedding_base: float = 10000.0,
    rotary_embedding_scale_type=0,
    rotary_embedding_short_m_scale: float = 1.0,
    rotary_embedding_long_m_scale: float = 1.0,
    rotary_embedding_scale: float = 1.0,
    rotary_embedding_max_positions: int = 1024,
    rotary_embedding_original_max_positions: int = 1024,
    position_embedding_type=PositionEmbeddingType.learned_absolute,
    rotary_inv_freq: Tensor | None = None,
    rotary_cos_sin: Tensor | None = None,
    max_context_length: int | None = None,
    mask_type=AttentionMaskType.causal,
    tp_size: int = 1,
    tp_rank: int = 0,
    kv_cache_block_offsets: Tensor | None = None,
    host_kv_cache_block_offsets: Tensor | None = None,
    host_kv_cache_pool_pointers: Tensor | None = None,
    host_kv_cache_pool_mapping: Tensor | None = None,
    host_context_lengths: Tensor | None = None,
    use_cache: bool = True,
    host_runtime_perf_knobs: Tensor | None = None,
    host_context_progress: Tensor | None = None,
    num_kv_heads_origin: int = -1,
) -> tuple[Tensor, None]:
    call = dict(locals())
    check_attention(call)
    net = default_net()
    value = attend(net.caches, call)
    shape_ = (qkv.shape[0], num_heads * hidden_size_per_head)
    placed = net.placeholder("GPTAttention", qkv.dtype, shape_, value)
    fields = {name: item for name, item in call.items() if not isinstance(item, Tensor | None)}
    inputs = (qkv.trt_tensor.name,)
    net.events.append(
        Event("GPTAttention", f"layers.{layer_idx + 1}.attention", fields, inputs, (placed.name,))
    )
    return Tensor(placed, value), None
