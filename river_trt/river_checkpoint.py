"""A River checkpoint: a Hugging Face directory with both banks (docs/river-checkpoint.md).

config.json           the model's own, with `architectures` and the key `river` of this module
model.safetensors     both banks; names and shapes are those of `checkpoint_tensors`

Written by `river-trt convert --format vllm` and read where the model is served. Nothing but the
standard library is imported.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from river_trt.errors import CheckpointError
from river_trt.model_shapes import linear_shapes, norm_sizes

ARCHITECTURE = "RiverForCausalLM"
SECTION = "river"  # the key of config.json
FORMAT = 1  # rises when a reader of before would misread
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
BACKEND = "vllm"  # BackendInfo.name of its manifest

LINEARS = {
    "qkv": "self_attn.qkv_proj",  # q, k and v, one below the other
    "o": "self_attn.o_proj",
    "gate_up": "mlp.gate_up_proj",  # gate, then up
    "down": "mlp.down_proj",
}
NORMS = {
    "input_norm": "input_norm",
    "q_norm": "self_attn.q_norm",
    "k_norm": "self_attn.k_norm",
    "attention_out_norm": "attention_out_norm",
    "post_attention_norm": "post_attention_norm",
    "mlp_out_norm": "mlp_out_norm",
}
EMBEDDING, FINAL_NORM, LM_HEAD = "model.embed_tokens", "model.norm", "lm_head"
DIRECTIONS = "model.directions"


@dataclass(frozen=True, slots=True)
class RopeInfo:
    """Angles of position p: p * inv_freq; `factor` multiplies cos and sin."""

    inv_freq: tuple[float, ...]  # [rotary_dim / 2]
    factor: float


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """What one layer's attention does."""

    rope: int | None  # index into `ropes`; None: no rotary embedding
    window: int | None  # tokens that a token sees, itself included; None: all before it


@dataclass(frozen=True, slots=True)
class RiverCheckpoint:
    """All that a model class must know: the model's features, the river's format, the policy."""

    format: int
    family: str
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    norm_eps: float
    norm_offset: float  # of the publisher's norm weights, which lack it; in the file it is added
    tie_embeddings: bool
    activation: str  # silu or gelu_pytorch_tanh
    biased: tuple[str, ...]  # the linears (qkv, o, gate_up, down) with a bias
    qk_norms: bool
    sandwich_norms: bool
    embedding_scale: float
    attention_scale: float
    attention_softcap: float | None
    final_softcap: float | None
    query_beta: float  # queries at position p grow by 1 + beta ln(1 + floor(p / period))
    query_period: int
    ropes: tuple[RopeInfo, ...]
    layers: tuple[LayerInfo, ...]
    group_size: int
    symmetric: bool
    scaled: tuple[str, ...]  # the linears whose river has a pre_scale
    directed: bool  # the direction gate: `directions` are among the tensors
    tau: tuple[float, ...]  # of each layer
    pinned: tuple[int, ...]  # layers from 1

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """[out, in] of a layer's four linears."""
        return linear_shapes(self)

    @property
    def norm_sizes(self) -> dict[str, int]:
        """Width of each of a layer's norms."""
        return norm_sizes(self)

    def tensors(self, dtype: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Type and shape of every tensor by name; `dtype` is the backbone's.

        The first layer has no river: nothing has exited before it.
        """
        found: dict[str, tuple[str, tuple[int, ...]]] = {}
        vocab = (self.vocab_size, self.hidden_size)
        found[f"{EMBEDDING}.weight"] = (dtype, vocab)
        if self.directed:
            found[DIRECTIONS] = ("float32", (self.num_layers, self.hidden_size))
        for layer in range(self.num_layers):
            prefix = layer_prefix(layer)
            for norm, size in self.norm_sizes.items():
                found[f"{prefix}.{NORMS[norm]}.weight"] = ("float32", (size,))
            for linear, (rows, columns) in self.linear_shapes.items():
                path = f"{prefix}.{LINEARS[linear]}"
                found[f"{path}.weight"] = (dtype, (rows, columns))
                if linear in self.biased:
                    found[f"{path}.bias"] = (dtype, (rows,))
                if layer > 0:
                    parts = self._river_parts(linear, rows, columns)
                    found |= {f"{path}.{part}": value for part, value in parts.items()}
        found[f"{FINAL_NORM}.weight"] = ("float32", (self.hidden_size,))
        if not self.tie_embeddings:
            found[f"{LM_HEAD}.weight"] = (dtype, vocab)
        return found

    def _river_parts(
        self, linear: str, rows: int, columns: int
    ) -> dict[str, tuple[str, tuple[int, ...]]]:
        groups = -(-columns // self.group_size)
        parts: dict[str, tuple[str, tuple[int, ...]]] = {
            "qweight": ("uint8", (rows, groups, self.group_size // 2)),
            "scales": ("float32", (rows, groups)),
        }
        if not self.symmetric:
            parts["zero_points"] = ("uint8", (rows, groups))
        if linear in self.scaled:
            parts["pre_scale"] = ("float32", (columns,))
        return parts

    def to_dict(self) -> dict[str, Any]:
        """For config.json, which has no infinity: such a tau is the text "inf" or "-inf"."""
        values = dataclasses.asdict(self)
        values["tau"] = [tau if math.isfinite(tau) else str(tau) for tau in self.tau]
        return values

    @classmethod
    def from_config(cls, config: Any, where: str) -> "RiverCheckpoint":
        """From what config.json's key `river` holds; None where it has no such key.

        where: the checkpoint, for messages. Raises CheckpointError for a plain checkpoint, a format
        that this version does not read, and values that are none.
        """
        if not isinstance(config, dict):
            raise CheckpointError(
                f"{where} is a plain checkpoint without a river: make a River checkpoint of it "
                "with `river-trt convert --format vllm`, or serve it under its own architecture"
            )
        found = config.get("format")
        if found != FORMAT:
            newer = isinstance(found, int) and found > FORMAT
            raise CheckpointError(
                f"{where} has format {found!r}, and this river-trt reads format {FORMAT}: "
                + ("upgrade river-trt" if newer else "convert the model again")
            )
        names = {field.name for field in dataclasses.fields(cls)}
        if wrong := sorted(config.keys() ^ names):
            state = "missing" if wrong[0] in names else "unknown"
            raise CheckpointError(
                f"{where}: config.json's key river.{wrong[0]} is {state}; convert the model again"
            )
        try:
            checkpoint = cls(**(config | _from_json(config)))
            checkpoint.check()
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(
                f"{where}: config.json's key river is damaged ({error}); convert the model again"
            ) from error
        return checkpoint

    def check(self) -> None:
        """ValueError for values that contradict each other."""
        sizes = ("hidden_size", "num_heads", "num_kv_heads", "head_dim", "intermediate_size")
        for name in (*sizes, "vocab_size", "num_layers", "query_period"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} heads share {self.num_kv_heads} key/value heads")
        if len(self.tau) != self.num_layers or any(math.isnan(tau) for tau in self.tau):
            raise ValueError(f"tau has {len(self.tau)} values for {self.num_layers} layers")
        if any(type(p) is not int or not 1 <= p <= self.num_layers for p in self.pinned):
            raise ValueError(f"pinned is {list(self.pinned)} for {self.num_layers} layers")
        if self.group_size not in (32, 64, 128):
            raise ValueError(f"group_size is {self.group_size!r}")
        if self.activation not in ("silu", "gelu_pytorch_tanh"):
            raise ValueError(f"activation is {self.activation!r}")
        for layer in self.layers:
            if layer.rope is not None and not 0 <= layer.rope < len(self.ropes):
                raise ValueError(f"a layer has rope {layer.rope}")


def layer_prefix(layer: int) -> str:
    """layer: from 0, as in Hugging Face's names."""
    return f"model.layers.{layer}"


def _from_json(values: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {name: tuple(values[name]) for name in ("biased", "scaled", "pinned")}
    changes["tau"] = tuple(float(tau) for tau in values["tau"])
    changes["ropes"] = tuple(
        RopeInfo(tuple(float(f) for f in rope["inv_freq"]), float(rope["factor"]))
        for rope in values["ropes"]
    )
    changes["layers"] = tuple(
        LayerInfo(layer["rope"], layer["window"]) for layer in values["layers"]
    )
    return changes
