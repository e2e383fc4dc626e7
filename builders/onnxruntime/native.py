"""The traced program as one native operator a layer (plugins/cpu/block.h).

    Block 0 ------ Block 1 ------------------------------------ ... -- Block L -- norm -- Head
    norm, qkv      attention (slot 0), o, MLP, gate, norm, qkv

Each row of a block reads its own bank, so there are no conditional regions and no selects.
"""

import numpy as np
import onnx_ir
from onnx import ModelProto, TensorProto, ValueInfoProto

from builders.families import ModelConfig
from builders.graph.fusions import pack_head_norms, pack_qkv
from builders.graph.linear import Linear, is_linear
from builders.graph.program import Operation, read_program
from builders.graph.regions import LayerRegions, find_regions
from builders.layouts.panels import RIVER_HEAD
from builders.layouts.weights_file import WeightsLayout
from builders.onnxruntime.lm_head import emit_embedding, emit_final_norm, emit_lm_head
from builders.onnxruntime.lowering import LoweringOptions, RuntimeLowering
from river_trt.backends.onnxruntime.cache_slots import slot_width
from river_trt.errors import CheckpointError
from river_trt.manifest import Kernels
from river_trt.native_library import ABI_VERSION, BLOCKS, DOMAIN
from river_trt.spec import cache_names
from river_trt.weight_panels import PANEL, num_panels

BEFORE = ("RMSNormalization", "Linear")
ACTIVATIONS = {"silu": ("Sigmoid", "Mul"), "gelu_pytorch_tanh": ("Gelu",)}
HEAD_NORMS = ("q_norm", "k_norm")
# Of the backbone: weight (float32), weight (float16), qweight, scales, zero_points. Of the river:
# qweight, scales, zero_points, pre_scale. Then bias.
LINEAR_PARTS = 10
CACHE_TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int8": TensorProto.INT8,
}


def choose_kernels(config: ModelConfig, asked: Kernels | None) -> Kernels:
    """The kernels asked for; where none are, the native ones for every model that they compute.

    Raises CheckpointError where native ones are asked for a model that they do not.
    """
    missing = missing_features(config)
    if asked == "native" and missing:
        raise CheckpointError(
            f"the native kernels do not compute {' or '.join(missing)}, which this model has: "
            "build it with --kernels onnxruntime"
        )
    if asked is None:
        return "onnxruntime" if missing else "native"
    return asked


def missing_features(config: ModelConfig) -> list[str]:
    """What a model has that the native operator does not compute."""
    features = {
        "soft caps": config.attention_softcap is not None or config.final_softcap is not None,
        "queries scaled by position": config.query_scaling is not None,
    }
    return [feature for feature, present in features.items() if present]


def lower_native(
    model: onnx_ir.Model, options: LoweringOptions
) -> tuple[ModelProto, WeightsLayout]:
    """Graph and the layout of the weights file that it points into.

    The model must be one that `choose_kernels` gives native kernels.
    """
    program = pack_head_norms(pack_qkv(read_program(model)))
    return _NativeLowering(model, program, find_regions(program), options).lower()


class _NativeLowering(RuntimeLowering):
    custom_domains = (*RuntimeLowering.custom_domains, (DOMAIN, ABI_VERSION))

    def prologue(self) -> None:
        emit_embedding(self.graph, self.regions.prologue, self.emitter, self.options.head)
        for layer in self.regions.layers:
            _check_layer(layer)
        self._block(0)

    def layer(self, number: int, layer: LayerRegions) -> None:
        self._block(number)

    def epilogue(self) -> None:
        head = self.options.head
        if head.bits >= 16:
            emit_lm_head(self.graph, self.regions.epilogue, self.emitter, head)
            return
        x, weight = emit_final_norm(self.graph, self.regions.epilogue, self.emitter)
        vocab, hidden = self.program.weight_shapes[weight]
        parts = self._quantised(weight, num_panels(vocab), hidden, head.group_size, head.bits)
        inputs, attributes = [x, *[""] * 5, *parts, "", ""], {}
        if head.frequent:
            inputs += self._river_head(hidden, vocab - head.frequent)
            attributes = {"frequent": head.frequent, "num_layers": self.num_layers}
        self.graph.add(
            "Head",
            inputs,
            ["logits"],
            domain=DOMAIN,
            hidden_size=hidden,
            vocab_size=vocab,
            group_size=head.group_size,
            bits=head.bits,
            rounds=self._rounds(),
            **attributes,
        )

    def _river_head(self, hidden: int, rare: int) -> list[str]:
        """Where the wanted positions left, and the head's river."""
        wanted = self.graph.add(
            "Gather", ["exit_layer", "logit_indices"], ["exit_layer.wanted"], axis=1
        )
        parts = self._quantised(RIVER_HEAD, num_panels(rare), hidden, self.options.group_size, 4)
        return [
            wanted,
            *parts,
            self.graph.weight(f"{RIVER_HEAD}.pre_scale", np.float32, (hidden,)),
        ]

    def inputs(self) -> list[ValueInfoProto]:
        return [self._cached(value) for value in super().inputs()]

    def outputs(self) -> list[ValueInfoProto]:
        return [self._cached(value) for value in super().outputs()]

    def _cached(self, value: ValueInfoProto) -> ValueInfoProto:
        """The input or output, of the cache's element type where it is a cache."""
        names = (*cache_names(self.num_layers), *cache_names(self.num_layers, "_out"))
        if value.name in names:
            kind, dims = value.type.tensor_type, value.type.tensor_type.shape.dim
            kind.elem_type = CACHE_TYPES[self.options.kv_cache]
            dims[-1].dim_value = slot_width(self.options.kv_cache, dims[-1].dim_value)
        return value

    def _block(self, number: int) -> None:
        """After the attention of layer `number` (from 1), before that of the next; see block.h."""
        layers = self.regions.layers
        last = number == self.num_layers
        ended = layers[number - 1] if number else None
        begun = None if last else layers[number]
        h_in, exit_layer = begun.h_in if begun else "", ""
        more_norms: list[str] = []
        attention = [""] * 7  # attended by another operator, or what is attended to
        outputs = ["", f"exit_layer.{number}", "", "", ""]
        attributes: dict[str, float | int] = {"num_heads": 0}
        weights: list[str] = []
        if ended is not None:
            h_in, exit_layer = ended.h_in, f"exit_layer.{number - 1}"
            outputs[0] = ended.h_out
            outputs[3:] = ended.attention.outputs[1:]
            attention, attributes = self._attention(ended)
            linears = self._linears(ended.after)
            for linear, halves in zip(linears, (1, 2, 1), strict=True):
                weights += self._linear(number, linear, halves)
            more_norms = [ended.attention.attributes.get(name, "") for name in HEAD_NORMS]
            more_norms += _sandwich_norms(ended.after)
            if any(operation.op_type == "Gelu" for operation in ended.after):
                attributes["gelu"] = 1
            attributes["attended_size"] = linears[0].shape[1]
            attributes["intermediate_size"] = linears[2].shape[1]
        else:
            weights += [""] * 3 * LINEAR_PARTS
            attributes["intermediate_size"] = 0
        if begun is not None:
            (qkv,) = self._linears(begun.before)
            outputs[2] = qkv.y
            weights += self._linear(number + 1, qkv, 1)
            attributes["qkv_size"] = qkv.shape[0]
        else:
            outputs[1] = "exit_layer"
            weights += [""] * LINEAR_PARTS
        norms = [_post_norm(ended) if ended else None, _norms(begun.before)[0] if begun else None]
        hidden = self.program.weight_shapes["norm.weight"][0]
        weights += [
            self.graph.weight(norm.inputs[1], np.float32, (hidden,)) if norm else ""
            for norm in norms
        ]
        weights += [
            name and self.graph.weight(name, np.float32, self.program.weight_shapes[name])
            for name in more_norms
        ]
        weights.append("logit_indices" if last else "")  # nobody reads the other rows
        while not weights[-1]:
            weights.pop()
        (epsilon,) = {norm.attributes["epsilon"] for norm in norms if norm}
        policy = ["tau", "pinned", "use_directions", "directions", "gate_scope"]
        self.graph.add(
            BLOCKS[self.options.kv_cache],
            [h_in, exit_layer, *policy, *attention, *weights],
            outputs,
            domain=DOMAIN,
            name=f"block.{number}",
            layer=number,
            num_layers=self.num_layers,
            hidden_size=hidden,
            group_size=self.options.group_size,
            epsilon=epsilon,
            rounds=self._rounds(),
            **attributes,
        )

    def _attention(self, layer: LayerRegions) -> tuple[list[str], dict[str, float | int]]:
        """Inputs and attributes of the attention in a block."""
        attention, (qkv_linear,) = layer.attention, self._linears(layer.before)
        qkv, _, _, k_cache, v_cache, past_lengths, *angles = attention.inputs
        heads, kv_heads = (attention.attributes[name] for name in ("num_heads", "num_kv_heads"))
        tables, rotary = ["", ""], 0
        if angles:  # else a layer without rotation
            shape = self.program.weight_shapes[angles[0]]
            tables = [self.graph.weight(name, np.float32, shape) for name in angles]
            rotary = 2 * shape[1]
        attributes = {
            "num_heads": heads,
            "num_kv_heads": kv_heads,
            "head_dim": qkv_linear.shape[0] // (heads + 2 * kv_heads),
            "rotary_dim": rotary,
            "scale": attention.attributes["scale"],
            "max_seq_len": self._positions(),
        }
        if attention.attributes["window"]:
            attributes["window"] = attention.attributes["window"]
        return ["", qkv, past_lengths, k_cache, v_cache, *tables], attributes

    def _positions(self) -> int:
        """How many the tables of the layers with rotation have."""
        inputs = [layer.attention.inputs for layer in self.regions.layers]
        return max(self.program.weight_shapes[cos][0] for one in inputs for cos in one[6:])

    def _linear(self, number: int, linear: Linear, halves: int) -> list[str]:
        """The parts of a linear of layer `number`; layer 1 never uses its river."""
        (n, k), path, weight = linear.shape, linear.path, self.graph.weight
        panels = num_panels(n, halves)
        backbone, river = [""] * 5, [""] * 4
        if self.options.banks != "river":
            backbone = self._backbone(path, panels, k)
        if self.options.banks == "river" or (self.options.banks == "both" and number > 1):
            group_size, asymmetric = linear.group_size, linear.has_zero_points
            river = self._quantised(path, panels, k, group_size, 4, asymmetric)
            scaled = linear.has_pre_scale
            river.append(weight(f"{path}.pre_scale", np.float32, (k,)) if scaled else "")
        bias = ""
        if linear.has_bias:
            bias = weight(f"{path}.bias_panels", np.float32, (panels * PANEL,))
        return [*backbone, *river, bias]

    def _backbone(self, path: str, panels: int, k: int) -> list[str]:
        """The five parts of a backbone."""
        weight, shape = self.graph.weight, (panels, k, PANEL)
        match self.options.backbone_bits:
            case 32:
                return [weight(f"{path}.weight_panels", np.float32, shape), *[""] * 4]
            case 16:
                return ["", weight(f"{path}.weight_float16_panels", np.float16, shape), *[""] * 3]
        group_size = self.options.group_size
        return ["", "", *self._quantised(f"{path}.backbone", panels, k, group_size, 8, joint="_")]

    def _quantised(
        self,
        path: str,
        panels: int,
        k: int,
        group_size: int,
        bits: int,
        asymmetric: bool = True,
        joint: str = ".",  # between path and the name of a part
    ) -> list[str]:
        """qweight, scales, zero_points."""
        groups = -(-k // group_size)
        weight, grid = self.graph.weight, (panels, groups, PANEL)
        zero_points = ""
        if asymmetric:
            zero_points = weight(f"{path}{joint}zero_points_panels", np.uint8, grid)
        codes = (panels, groups, group_size // 4, 8 * bits)
        return [
            weight(f"{path}{joint}qweight_panels", np.uint8, codes),
            weight(f"{path}{joint}scales_panels", np.float32, grid),
            zero_points,
        ]

    def _linears(self, operations: tuple[Operation, ...]) -> list[Linear]:
        shapes = self.program.weight_shapes
        return [Linear.of(operation, shapes) for operation in operations if is_linear(operation)]

    def _rounds(self) -> int:
        return int(self.options.river_activation == "int8")


def _check_layer(layer: LayerRegions) -> None:
    before = tuple(operation.op_type for operation in layer.before[: len(BEFORE)])
    after = [operation.op_type for operation in layer.after]
    norm = ("RMSNormalization",) * (len(_norms(layer.after)) == 3)
    expected = [
        [
            *("Linear", *norm, "Add", "RMSNormalization", "Linear", "Split"),
            *(*activation, "Mul", "Linear", *norm, "Add"),
        ]
        for activation in ACTIVATIONS.values()
    ]
    assert before == BEFORE and after in expected, "missing_features lets only these layers pass"


def _norms(operations: tuple[Operation, ...]) -> list[Operation]:
    return [op for op in operations if op.op_type == "RMSNormalization"]


def _post_norm(layer: LayerRegions) -> Operation:
    """Before the MLP: the only one behind the attention, or the one between two others."""
    norms = _norms(layer.after)
    return norms[len(norms) // 2]


def _sandwich_norms(after: tuple[Operation, ...]) -> list[str]:
    """Weights of the norms of o's and of down's output, or nothing for each."""
    norms = _norms(after)
    return [norms[0].inputs[1], norms[2].inputs[1]] if len(norms) == 3 else ["", ""]
