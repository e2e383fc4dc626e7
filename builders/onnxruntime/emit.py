"""Operations of one region for one bank, attention and the gate, as ONNX Runtime nodes."""

from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto

from builders.graph.linear import Bank, Linear, input_of, is_linear, without_pre_scale
from builders.graph.program import Operation, Program
from builders.graph.scope import Scope
from builders.options import RiverActivation

# MatMulNBits: 4 rounds the activations of each group to 8 bits, 1 computes in float32.
ACCURACY_LEVELS: dict[RiverActivation, int] = {"int8": 4, "float32": 1}

# Norms that a river's input scaling can be folded into, and where their weight is.
NORM_WEIGHT_INPUT = {"SimplifiedLayerNormalization": 1, "SkipSimplifiedLayerNormalization": 2}
PRE_SCALED = "_pre_scaled"  # suffix of a norm's weight times the river's input scaling


@dataclass(frozen=True, slots=True)
class RegionEmitter:
    """Copies a region of the program into a scope, each linear through the chosen bank."""

    program: Program
    readers: dict[str, list[Operation]]  # of the whole program
    accuracy_level: int
    backbone_group_size: int | None = None  # of an 8-bit backbone; None: float32

    def emit(
        self, scope: Scope, operations: tuple[Operation, ...], bank: Bank, suffix: str
    ) -> dict[str, str]:
        """Returns the new name of every tensor that the region makes."""
        made = [tensor for op in operations for tensor in op.outputs if tensor]
        names = {tensor: tensor + suffix for tensor in made}
        if bank == "river":
            operations = self._fold_pre_scales(operations)
        for operation in operations:
            self._read_constants(scope, operation)
            copy = operation.renamed(names, suffix)
            if not is_linear(operation):
                scope.copy(copy)
            elif bank == "backbone":
                self._backbone_linear(scope, Linear.of(copy, self.program.weight_shapes))
            else:
                self._river_linear(scope, Linear.of(copy, self.program.weight_shapes))
        return names

    def _fold_pre_scales(self, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
        """norm -- Mul pre_scale -- linear   becomes   norm with its own weight -- linear

        Only for a norm inside the region, whose result no one but the linear reads.
        """
        norms = {op.outputs[0]: op for op in operations if op.op_type in NORM_WEIGHT_INPUT}
        folded: dict[int, Operation] = {}
        for linear in filter(is_linear, operations):
            norm = norms.get(input_of(linear, "x"))
            scaled = input_of(linear, "pre_scale")
            if norm is None or not scaled or len(self.readers[norm.outputs[0]]) > 1:
                continue
            at = NORM_WEIGHT_INPUT[norm.op_type]
            weight = norm.inputs[at] + PRE_SCALED
            folded[id(norm)] = replace(
                norm, inputs=(*norm.inputs[:at], weight, *norm.inputs[at + 1 :])
            )
            folded[id(linear)] = without_pre_scale(linear)
        return tuple(folded.get(id(op), op) for op in operations)

    def _read_constants(self, scope: Scope, operation: Operation) -> None:
        if is_linear(operation):
            return
        for tensor in operation.inputs:
            if tensor in self.program.constants:
                scope.constant(tensor, self.program.constants[tensor])
            elif (stored := tensor.removesuffix(PRE_SCALED)) in self.program.weight_shapes:
                scope.weight(tensor, np.float32, self.program.weight_shapes[stored])

    def _backbone_linear(self, scope: Scope, linear: Linear) -> None:
        """x -- MatMul [K, N] -- (Add bias) -- y, or MatMulNBits(+ bias)"""
        if self.backbone_group_size is not None:
            self._integer_backbone(scope, linear, self.backbone_group_size)
            return
        n, k = linear.shape
        transposed = scope.weight(f"{linear.weight}_transposed", np.float32, (k, n))
        if linear.has_bias:
            product = scope.add("MatMul", [linear.x, transposed], [f"{linear.y}/product"])
            bias = scope.weight(f"{linear.path}.bias", np.float32, (n,))
            scope.add("Add", [product, bias], [linear.y], name=linear.name)
        else:
            scope.add("MatMul", [linear.x, transposed], [linear.y], name=linear.name)

    def _integer_backbone(self, scope: Scope, linear: Linear, group_size: int) -> None:
        """x -- MatMulNBits(+ bias) -- y"""
        (n, k), path = linear.shape, linear.path
        groups = -(-k // group_size)
        weights = [
            scope.weight(f"{path}.backbone_qweight", np.uint8, (n, groups, group_size)),
            scope.weight(f"{path}.backbone_scales", np.float32, (n, groups)),
            scope.weight(f"{path}.backbone_zero_points", np.uint8, (n, groups)),
        ]
        self._product(scope, linear, linear.x, weights, 8, group_size)

    def _river_linear(self, scope: Scope, linear: Linear) -> None:
        """x -- (Mul pre_scale) -- MatMulNBits(+ bias) -- y"""
        x, (n, k), path = linear.x, linear.shape, linear.path
        groups, half = linear.groups, linear.group_size // 2
        if linear.has_pre_scale:
            factor = scope.weight(f"{path}.pre_scale", np.float32, (k,))
            x = scope.add("Mul", [x, factor], [f"{linear.y}/scaled"])
        packed = ""
        if linear.has_zero_points:
            shape = (n, -(-groups // 2))
            packed = scope.weight(f"{path}.zero_points_packed", np.uint8, shape)
        weights = [
            scope.weight(f"{path}.qweight", np.uint8, (n, groups, half)),
            scope.weight(f"{path}.scales", np.float32, (n, groups)),
            packed,
        ]
        self._product(scope, linear, x, weights, 4, linear.group_size)

    def _product(
        self,
        scope: Scope,
        linear: Linear,
        x: str,
        weights: list[str],
        bits: int,
        group_size: int,
    ) -> None:
        n, k = linear.shape
        inputs = [x, *weights]
        if linear.has_bias:
            inputs += ["", scope.weight(f"{linear.path}.bias", np.float32, (n,))]
        scope.contrib(
            "MatMulNBits",
            inputs,
            [linear.y],
            name=linear.name,
            K=k,
            N=n,
            bits=bits,
            block_size=group_size,
            accuracy_level=self.accuracy_level,
        )


def emit_attention(scope: Scope, attention: Operation, program: Program) -> None:
    """GroupQueryAttention on the layer's slot: rotary, append and attend in one kernel."""
    q, k, v, k_cache, v_cache, _, *tables = attention.inputs
    given = attention.attributes
    attributes = {"num_heads": given["num_heads"], "kv_num_heads": given["num_kv_heads"]}
    attributes |= {"scale": given["scale"], "do_rotary": 0}
    inputs = [q, k, v, k_cache, v_cache, "last_slots", "total_length"]
    if any(tables):
        attributes["do_rotary"] = 1
        inputs += [scope.weight(name, np.float32, program.weight_shapes[name]) for name in tables]
    if given["window"]:
        attributes["local_window_size"] = given["window"]
    if given["softcap"]:
        attributes["softcap"] = given["softcap"]
    scope.contrib(
        "GroupQueryAttention", inputs, list(attention.outputs), name=attention.name, **attributes
    )


def emit_lengths(scope: Scope) -> None:
    """past_lengths and seq to what GroupQueryAttention wants, once a step.

    last_slots int32 [batch]: the slot of each row's last token. total_length int32 []: the
    longest row after this step.
    """
    one = scope.constant("one", np.array(1, np.int32))
    scope.add("Shape", ["input_ids"], ["seq_int64"], start=1, end=2)
    scope.add("Cast", ["seq_int64"], ["seq"], to=TensorProto.INT32)
    scope.add("Sub", ["seq", one], ["seq_minus_one"])
    scope.add("Add", ["past_lengths", "seq_minus_one"], ["last_slots"])
    scope.add("ReduceMax", ["last_slots"], ["last_slot"], keepdims=0)
    scope.add("Add", ["last_slot", one], ["total_length"])
