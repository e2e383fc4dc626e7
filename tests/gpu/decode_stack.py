"""A Llama-shaped stack of decoder layers over the plugin's operators, with random weights.

One step is what a River engine's decode step is; speed needs the shapes and the kernels, not a
checkpoint. Needs torch and a library of plugins/torch alone.

one layer, six launches:

h --+-- packed_linear(norm, qkv) -- attention -- packed_linear(o, + h) --+-- packed_linear(norm,
    |                                                                    |  gate_up, silu_mul) -- \
    |                                      packed_linear(down, + h) -- h' -- gate(h, h') -- exited
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GROUP_SIZE = 128
INT8_ACTIVATIONS = True  # of the river, as on the CPU
WORKSPACE_BYTES = 16 << 20
SUM_SQUARES_PARTS = 256
NORM_EPS = 1e-5
ROPE_THETA = 500000.0


@dataclass(frozen=True)
class Shape:
    """A model's sizes. Llama's layers: no biases, one rotary table, silu."""

    name: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    full_layers: int | None = None  # of the model, where fewer are built

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """[N, K] of a layer's linears."""
        q, kv = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return {
            "qkv": (q + 2 * kv, self.hidden_size),
            "o": (self.hidden_size, q),
            "gate_up": (2 * self.intermediate_size, self.hidden_size),
            "down": (self.hidden_size, self.intermediate_size),
        }

    def backbone_bytes(self) -> int:
        """Of a layer, 2 bytes a value."""
        return sum(2 * n * k for n, k in self.linears.values())

    def river_bytes(self) -> int:
        """Of a layer: 4 bits a value, scale and zero point as float16 a group."""
        return sum(n * k // 2 + n * -(-k // GROUP_SIZE) * 4 for n, k in self.linears.values())

    def head_bytes(self) -> int:
        return 2 * self.vocab_size * self.hidden_size

    def cache_bytes(self, tokens: int) -> int:
        """Keys and values of all layers that a step reads."""
        return self.num_layers * 4 * self.num_kv_heads * self.head_dim * tokens


@dataclass(frozen=True)
class Layer:
    """Both banks of the four linears and the norms."""

    weight: dict[str, Tensor]  # [N, K]
    packed: dict[str, Tensor]  # the river bank in the kernel's layout, uint8
    input_norm: Tensor  # [hidden]
    post_norm: Tensor


def milliseconds(work: Callable[[], None]) -> float:
    """Of a CUDA graph of the work: the best of four replays."""
    stream = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()  # what the work reads comes from another stream
    with torch.cuda.stream(stream):
        work()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            work()
    times = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return min(times[1:])


class Stack(torch.nn.Module):
    """Weights and caches of one shape on a device, and the steps over them."""

    def __init__(self, shape: Shape, batch: int, capacity: int, device: str) -> None:
        super().__init__()
        self.shape = shape
        generator = torch.Generator(device).manual_seed(0)
        self.generator, self.device_name = generator, device
        self.variants = dict.fromkeys(shape.linears, -1)  # of the packed bank's kernel: its default
        self.layers = [self._layer() for _ in range(shape.num_layers)]
        self.embedding = self._normal(shape.vocab_size, shape.hidden_size)
        self.lm_head = self._normal(shape.vocab_size, shape.hidden_size)
        self.norm = torch.ones(shape.hidden_size, dtype=torch.bfloat16, device=device)
        positions = torch.arange(capacity, dtype=torch.float32, device=device)[:, None]
        steps = torch.arange(0, shape.head_dim, 2, dtype=torch.float32, device=device)
        angles = positions * ROPE_THETA ** (-steps / shape.head_dim)
        self.cos, self.sin = angles.cos(), angles.sin()
        size = (batch, shape.num_kv_heads, capacity, shape.head_dim)
        self.caches = [
            torch.empty(size, dtype=torch.bfloat16, device=device).normal_(generator=generator)
            for _ in range(2 * shape.num_layers)
        ]
        self.direction = torch.zeros(shape.hidden_size, device=device)
        self.no = torch.zeros((), dtype=torch.bool, device=device)
        self.token_scope = torch.zeros((), dtype=torch.int32, device=device)
        # Zero before the first launch and left so by each: no launch clears one.
        self.attention_workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        self.gate_workspace = torch.zeros(WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        # Sums of squares of what o and the gate write, for the norms that follow.
        self.o_squares = torch.empty(batch, SUM_SQUARES_PARTS, device=device)
        self.gate_squares = torch.empty(batch, 1, device=device)
        self.down_squares = torch.empty(batch, SUM_SQUARES_PARTS, device=device)  # without a gate

    def river_step(
        self,
        ids: Tensor,  # [batch, 1] int64
        past_lengths: Tensor,  # [batch] int32
        tau: Tensor,  # [L] float32
        exited: Tensor,  # [batch, 1] bool: all true is a model of the river alone
        caches: Sequence[Tensor],  # of the layers: K and V, [batch, num_kv_heads, capacity, D]
        by_flag: bool = True,  # else all linears take the backbone, and no flag is read
    ) -> tuple[Tensor, Tensor]:
        """Logits [batch, 1, vocab] and exit_layer int32 [batch, 1]; the caches are changed."""
        shape, ops = self.shape, torch.ops.river_trt_cuda
        h = torch.nn.functional.embedding(ids, self.embedding)
        exit_layer = torch.full_like(ids, shape.num_layers, dtype=torch.int32)
        use_river, squares = exited, None
        for index in range(shape.num_layers):
            h_in = h
            flags = use_river if by_flag else None
            h = self._decoder_layer(h, index, flags, past_lengths, caches, squares)
            squares = self.gate_squares
            exited, exit_layer, use_river = ops.step_gate(
                *(h_in, h, self.direction, self.no, exited, exit_layer),
                *(tau[index], self.no, self.token_scope, index + 1),
                *(squares, self.gate_workspace),
            )
        return self._logits(h), exit_layer

    def tune(self, rows: int) -> dict[str, str]:
        """The fastest variant of each linear over all layers' weights, by CUDA graphs.

        A variant serves both banks; the river's time counts for two, as most layers run it.
        """
        names = torch.ops.river_trt_cuda.linear_variants()
        for name in self.shape.linears:
            costs = [self._cost(name, rows, variant) for variant in range(len(names))]
            self.variants[name] = costs.index(min(costs))
        return {name: names[variant] for name, variant in self.variants.items()}

    def _cost(self, name: str, rows: int, variant: int) -> float:
        n, k = self.shape.linears[name]
        x = torch.randn(rows, 1, k, device=self.device_name).bfloat16()
        added = torch.zeros(rows, 1, n, device=self.device_name).bfloat16()
        residual = None if name in ("qkv", "gate_up") else added
        self.variants[name] = variant
        cost = 0.0
        for river, weight in ((True, 2.0), (False, 1.0)):
            flags = torch.full((rows, 1), river, device=self.device_name)

            def all_layers(flags: Tensor = flags) -> None:
                for layer in self.layers:
                    norm = layer.input_norm if residual is None else None
                    self._linear(layer, name, x, flags, norm, name == "gate_up", residual)

            try:
                cost += weight * milliseconds(all_layers)
            except RuntimeError:  # does not fit the device's shared memory
                return float("inf")
        return cost

    def backbone_step(
        self, ids: Tensor, past_lengths: Tensor, caches: Sequence[Tensor]
    ) -> tuple[Tensor]:
        """The plain model over the same kernels and variants: one bank, no gate."""
        h = torch.nn.functional.embedding(ids, self.embedding)
        squares = None
        for index in range(self.shape.num_layers):
            h = self._decoder_layer(
                h, index, None, past_lengths, caches, squares, self.down_squares
            )
            squares = self.down_squares
        return (self._logits(h),)

    def _decoder_layer(
        self,
        h: Tensor,
        index: int,
        use_river: Tensor | None,
        past_lengths: Tensor,
        caches: Sequence[Tensor],
        squares: Tensor | None,  # of h
        squares_out: Tensor | None = None,  # of the result
    ) -> Tensor:
        layer = self.layers[index]
        qkv = self._linear(layer, "qkv", h, use_river, norm=layer.input_norm, squares=squares)
        attended = self._attend(qkv, index, past_lengths, caches)
        h = self._linear(layer, "o", attended, use_river, residual=h, squares_out=self.o_squares)
        active = self._linear(
            *(layer, "gate_up", h, use_river),
            norm=layer.post_norm,
            silu_mul=True,
            squares=self.o_squares,
        )
        # The residual is added before anything is rounded, as in the plain model.
        return self._linear(layer, "down", active, use_river, residual=h, squares_out=squares_out)

    def _linear(
        self,
        layer: Layer,
        name: str,
        x: Tensor,
        use_river: Tensor | None,  # None: the backbone alone
        norm: Tensor | None = None,
        silu_mul: bool = False,
        residual: Tensor | None = None,
        squares: Tensor | None = None,  # of x
        squares_out: Tensor | None = None,  # of the result
    ) -> Tensor:
        weight = layer.weight[name]
        packed = None if use_river is None else layer.packed[name]
        # The gate wrote use_river just before qkv: that one cannot know its bank any earlier.
        early = name != "qkv"
        y: Tensor = torch.ops.river_trt_cuda.packed_linear(
            *(x, use_river, weight, packed, weight.shape[0], GROUP_SIZE, None, None),
            *(norm, NORM_EPS, silu_mul, residual, INT8_ACTIVATIONS, early),
            *(squares, squares_out, self.variants[name]),
        )
        return y

    def _attend(
        self, qkv: Tensor, index: int, past_lengths: Tensor, caches: Sequence[Tensor]
    ) -> Tensor:
        shape = self.shape
        kv = shape.num_kv_heads * shape.head_dim
        q, k, v = qkv.split([shape.num_heads * shape.head_dim, kv, kv], dim=-1)
        attended: Tensor = torch.ops.river_trt_cuda.attention(
            *(q, k, v, caches[2 * index], caches[2 * index + 1], past_lengths),
            *(self.cos, self.sin, shape.num_heads, shape.num_kv_heads),
            *(shape.head_dim**-0.5, 0, 0.0, self.attention_workspace),
        )
        return attended

    def _logits(self, h: Tensor) -> Tensor:
        hidden = torch.nn.functional.rms_norm(h, (h.shape[-1],), self.norm, NORM_EPS)
        return torch.nn.functional.linear(hidden, self.lm_head)

    def _layer(self) -> Layer:
        linears = self.shape.linears
        river = {name: self._river(n, k) for name, (n, k) in linears.items()}
        pack = torch.ops.river_trt_cuda.pack
        return Layer(
            weight={name: self._normal(n, k) for name, (n, k) in linears.items()},
            packed={name: pack(*parts, linears[name][1]) for name, parts in river.items()},
            input_norm=torch.ones(
                self.shape.hidden_size, dtype=torch.bfloat16, device=self.device_name
            ),
            post_norm=torch.ones(
                self.shape.hidden_size, dtype=torch.bfloat16, device=self.device_name
            ),
        )

    def _normal(self, n: int, k: int) -> Tensor:
        values = torch.empty(n, k, dtype=torch.bfloat16, device=self.device_name)
        return values.normal_(0.0, k**-0.5, generator=self.generator)

    def _river(self, n: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
        groups = -(-k // GROUP_SIZE)
        place = {"device": self.device_name, "generator": self.generator}
        codes = torch.randint(256, (n, groups, GROUP_SIZE // 2), dtype=torch.uint8, **place)
        scale = 0.2 * k**-0.5  # codes spread over 16 values, about 5 of them a deviation
        scales = torch.full((n, groups), scale, dtype=torch.float16, device=self.device_name)
        zeros = torch.full((n, groups), 8, dtype=torch.uint8, device=self.device_name)
        return codes, scales, zeros
