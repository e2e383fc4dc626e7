"""RiverLinear and the exit gate as TensorRT-LLM modules: parameters, and the plugin around them.

Between two attentions the packed tokens of all requests are one row, [1, tokens, ...].
"""

from dataclasses import dataclass

from tensorrt_llm.functional import Tensor, allreduce
from tensorrt_llm.layers import RmsNorm
from tensorrt_llm.module import Module
from tensorrt_llm.parameter import Parameter

from builders.tensorrt_llm.config import RiverConfig
from builders.tensorrt_llm.plugins import add_plugin

BACKBONE_ONLY = 1  # RiverLinear's attribute `banks`


@dataclass(frozen=True, slots=True, eq=False)
class ExitFlags:
    """What goes from layer to layer, [1, tokens] int32 each; None before the first gate."""

    exited: Tensor | None = None
    exit_layer: Tensor | None = None
    use_river: Tensor | None = None  # of the next layer; never set for a prompt's tokens


class RiverLinear(Module):
    """y = x W through the bank that each token's flag names; the first layer has no river.

    role: qkv, o, gate_up or down. o and down are row-parallel: their ranks' sums are added up.
    """

    def __init__(
        self, config: RiverConfig, layer: int, role: str, in_features: int, out_features: int
    ) -> None:
        super().__init__()
        river, dtype = config.river, config.dtype
        self.group_size, self.layer, self.role = river.group_size, layer, role
        self.name = f"layers.{layer + 1}.{role}"
        self.tp_group = config.mapping.tp_group if role in ("o", "down") else None
        self.tp_size = config.mapping.tp_size
        self.weight = Parameter(shape=(out_features, in_features), dtype=dtype)
        if layer > 0:
            groups = -(-in_features // river.group_size)
            words = groups * river.group_size // 8
            self.qweight = Parameter(shape=(out_features, words), dtype="int32")
            self.scales = Parameter(shape=(out_features, groups), dtype="float16")
            if not river.symmetric:
                words = -(-out_features * groups // 4)
                self.zero_points = Parameter(shape=(words,), dtype="int32")
            if role in river.scaled:
                self.pre_scale = Parameter(shape=(in_features,), dtype="float16")
        if role in river.biased:
            self.bias = Parameter(shape=(out_features,), dtype=dtype)

    def forward(
        self,
        x: Tensor,  # [1, tokens, in_features]
        use_river: Tensor | None,
        *,
        norm: RmsNorm | None = None,  # of x, before either bank
        residual: Tensor | None = None,  # [1, tokens, out_features], added to y
        silu_mul: bool = False,  # y [1, tokens, out_features / 2]: silu(first half) * second half
    ) -> Tensor:
        fields: dict[str, int | float] = {}
        inputs = [x]
        if use_river is None:
            assert self.layer == 0, "a layer after the first has a flag"
            fields["banks"] = BACKBONE_ONLY
            inputs.append(self.weight.value)
        else:
            fields["group_size"] = self.group_size
            inputs += [use_river, self.weight.value, self.qweight.value, self.scales.value]
        for part in ("zero_points", "pre_scale", "bias"):
            parameter = getattr(self, part, None)
            if parameter is not None:
                fields[part] = 1
                inputs.append(parameter.value)
        if norm is not None:
            fields |= {"norm": 1, "norm_eps": float(norm.eps)}
            inputs.append(norm.weight.value)
        # Ranks add up first: a residual inside the plugin would count once a rank.
        summed = self.tp_group is not None and self.tp_size > 1
        if residual is not None and not summed:
            fields["residual"] = 1
            inputs.append(residual)
        if silu_mul:
            fields["silu_mul"] = 1
        (y,) = add_plugin("RiverLinear", self.name, fields, inputs)
        if summed:
            y = allreduce(y, self.tp_group)
            return y if residual is None else y + residual
        return y


class ExitGates(Module):
    """The policy's constants, and one RiverGate a layer over them."""

    def __init__(self, config: RiverConfig) -> None:
        super().__init__()
        self.num_layers = config.num_hidden_layers
        self.tau = Parameter(shape=(self.num_layers,), dtype="float32")
        self.pinned = Parameter(shape=(self.num_layers,), dtype="int32")
        self.has_directions = config.river.gate == "direction"
        if self.has_directions:
            shape = (self.num_layers, config.hidden_size)
            self.directions = Parameter(shape=shape, dtype="float32")

    def gate(
        self,
        layer: int,  # from 0
        h_in: Tensor,  # [1, tokens, hidden]
        residual: Tensor,  # [1, tokens, hidden]
        delta: Tensor,  # [1, tokens, hidden]
        state: ExitFlags,
        switches: "Switches",
    ) -> tuple[Tensor, ExitFlags]:
        """(h_out, the next layer's state), where h_out = residual + delta.

        h_in ----------------+
        residual --(+)-------+-- score > tau: exited, exit_layer -- * generated -- use_river
        delta -----/    h_out
        """
        number, is_last = layer + 1, layer + 1 == self.num_layers
        fields: dict[str, int | float] = {
            "layer": number,
            "num_layers": self.num_layers,
            "residual": 1,
        }
        inputs = [h_in, delta, residual]
        if self.has_directions:
            fields["direction"] = 1
            inputs += [self.directions.value, switches.one]
        inputs.append(self.tau.value)
        if not is_last:
            inputs.append(self.pinned.value)
        inputs.append(switches.zero)  # scope: every token for itself
        if layer > 0:
            assert state.exited is not None and state.exit_layer is not None
            inputs += [state.exited, state.exit_layer]
        h_out, exited, exit_layer, *flags = add_plugin(
            "RiverGate", f"layers.{number}.gate", fields, inputs
        )
        use_river = None if is_last else flags[0] * switches.generated
        return h_out, ExitFlags(exited, exit_layer, use_river)


@dataclass(frozen=True, slots=True, eq=False)
class Switches:
    """Small int32 tensors that all gates of a network share."""

    zero: Tensor  # [1]
    one: Tensor  # [1]
    generated: Tensor  # [1, tokens]: 0 for the tokens of a prompt, which stay on the backbone
