"""Embedding and LM head: shared by both banks, with a precision of their own.

The embedding is stored as the checkpoint has it and widened after the lookup. At 16 and 32 bits a
head is stored as [vocab, hidden]; one that equals the embedding is the embedding's tensor.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import torch
from onnx import TensorProto

from builders.graph.program import Operation
from builders.graph.scope import Scope
from builders.onnxruntime.emit import RegionEmitter
from builders.onnxruntime.fusions import fuse_norms

STORED_DTYPES: dict[torch.dtype, np.dtype] = {
    torch.float32: np.dtype(np.float32),
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True, slots=True)
class HeadPrecision:
    """How embedding and LM head are stored."""

    bits: int  # 4, 8, 16 or 32
    group_size: int  # of a 4- or 8-bit head
    embedding_dtype: torch.dtype
    head_dtype: torch.dtype  # of a 16- or 32-bit head
    tied: bool  # the checkpoint's head is its embedding
    accuracy_level: int
    frequent: int = 0  # tokens that a head with a river reads whole; 0: it has none

    @property
    def is_embedding(self) -> bool:
        """The head needs no tensor of its own."""
        return self.bits >= 16 and self.tied and self.head_dtype == self.embedding_dtype


def emit_embedding(
    graph: Scope, prologue: tuple[Operation, ...], emitter: RegionEmitter, head: HeadPrecision
) -> None:
    """input_ids -- Gather (stored dtype) -- (Cast) -- (Mul scale) -- h"""
    gather, *scaling = prologue
    weight, ids = gather.inputs
    dtype = STORED_DTYPES[head.embedding_dtype]
    graph.weight(weight, dtype, emitter.program.weight_shapes[weight])
    (h,) = gather.outputs
    if dtype == np.float32:
        graph.add("Gather", [weight, ids], [h])
    else:
        graph.add("Gather", [weight, ids], [f"{h}/stored"])
        graph.add("Cast", [f"{h}/stored"], [h], to=TensorProto.FLOAT)
    emitter.emit(graph, tuple(scaling), "backbone", "")


def emit_final_norm(
    graph: Scope, epilogue: tuple[Operation, ...], emitter: RegionEmitter
) -> tuple[str, str]:
    """What comes before the head; returns the names of its input and of its weight."""
    rest, (transpose, matmul), _ = _split_epilogue(epilogue)
    emitter.emit(graph, fuse_norms(rest), "backbone", "")
    (weight,) = transpose.inputs
    return matmul.inputs[0], weight


def emit_lm_head(
    graph: Scope, epilogue: tuple[Operation, ...], emitter: RegionEmitter, head: HeadPrecision
) -> None:
    """Final norm and head of the wanted positions, then the soft cap where a model has one.

    Replaces the traced Transpose and MatMul.
    """
    _, (_, matmul), softcap = _split_epilogue(epilogue)
    x, weight = emit_final_norm(graph, epilogue, emitter)
    _emit_matmul(graph, x, weight, matmul, emitter, head)
    emitter.emit(graph, softcap, "backbone", "")


def _split_epilogue(
    epilogue: tuple[Operation, ...],
) -> tuple[tuple[Operation, ...], tuple[Operation, ...], tuple[Operation, ...]]:
    """What comes before the head, its Transpose and MatMul, what comes after."""
    at = next(i for i, op in enumerate(epilogue) if op.op_type == "Transpose")
    assert epilogue[at + 1].op_type == "MatMul"
    return epilogue[:at], epilogue[at : at + 2], epilogue[at + 2 :]


def _emit_matmul(
    graph: Scope,
    x: str,
    weight: str,
    matmul: Operation,
    emitter: RegionEmitter,
    head: HeadPrecision,
) -> None:
    vocab, hidden = emitter.program.weight_shapes[weight]
    outputs = list(matmul.outputs)
    if head.bits < 16:
        groups = -(-hidden // head.group_size)
        packed = 8 // head.bits
        inputs = [
            x,
            graph.weight(f"{weight}.qweight", np.uint8, (vocab, groups, head.group_size // packed)),
            graph.weight(f"{weight}.scales", np.float32, (vocab, groups)),
            graph.weight(f"{weight}.zero_points_packed", np.uint8, (vocab, -(-groups // packed))),
        ]
        graph.contrib(
            "MatMulNBits",
            inputs,
            outputs,
            K=hidden,
            N=vocab,
            bits=head.bits,
            block_size=head.group_size,
            accuracy_level=head.accuracy_level,
        )
        return
    if head.is_embedding:
        (weight,) = [name for name in graph.initializers if name == "embedding"]
    else:
        graph.weight(weight, STORED_DTYPES[head.head_dtype], (vocab, hidden))
    if head.head_dtype != torch.float32:
        graph.add("Cast", [weight], [f"{weight}/float32"], to=TensorProto.FLOAT)
        weight = f"{weight}/float32"
    graph.contrib("FusedMatMul", [x, weight], outputs, transB=1)
