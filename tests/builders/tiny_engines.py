"""An engine and the torch reference of the same model and river, side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

import river_trt
from builders.build import BuildOptions, build
from builders.calibration_text import read_calibration
from builders.decoder import DecoderLayer, RiverDecoder
from builders.quantisers import make_quantiser
from builders.quantisers.integer import quantise_integer
from builders.reference import teacher_forced
from builders.river_bank import load_decoder, river_format
from builders.source import ModelSource
from river_trt.spec import ExitPolicy
from tests.builders.tiny_llama import save_tiny_llama, save_word_tokenizer

# head_dim 16, the least that ONNX Runtime's attention takes; K = 96 leaves a part-filled group.
TINY: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,  # large enough for similarities to spread over (-1, 1)
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    hf: PreTrainedModel
    reference: RiverDecoder
    engine: river_trt.Engine
    directory: Path

    def assert_equal(
        self, ids: np.ndarray, policy: ExitPolicy, scope: str = "token", tolerance: float = 2e-3
    ) -> np.ndarray:
        """Same logits and exit layers in one parallel pass; returns the exit layers."""
        logits, exit_layer = teacher_forced(self.reference, ids, policy, scope)
        engine_logits, engine_exit_layer = self.engine.forward(ids, policy, gate_scope=scope)
        np.testing.assert_array_equal(engine_exit_layer, exit_layer)
        np.testing.assert_allclose(engine_logits, logits, atol=tolerance, rtol=0)
        return exit_layer


def build_pair(
    directory: Path,
    quantiser: str = "rtn",
    group_size: int = 32,
    symmetric: bool = False,
    with_tokenizer: bool = False,
    kernels: str | None = None,
    river_activation: str = "float32",  # the reference does not round activations
    backbone_bits: int | None = None,
    backend: str | None = None,
    **changes: Any,
) -> Pair:
    """A tiny random Llama; `changes` go to its LlamaConfig."""
    hf = save_tiny_llama(directory / "model", **(TINY | changes)).eval()
    if with_tokenizer:
        save_word_tokenizer(directory / "model")
    return pair_of(
        directory,
        hf,
        quantiser,
        group_size,
        symmetric,
        kernels,
        river_activation,
        backbone_bits,
        backend,
    )


def pair_of(
    directory: Path,
    hf: PreTrainedModel,
    quantiser: str = "rtn",
    group_size: int = 32,
    symmetric: bool = False,
    kernels: str | None = None,
    river_activation: str = "float32",  # the reference does not round activations
    backbone_bits: int | None = None,
    backend: str | None = None,
    kv_cache: str | None = None,
) -> Pair:
    """Engine and reference of the model that was saved in `directory`/model."""
    options = BuildOptions(
        str(directory / "model"),
        directory / "engine",
        quantiser=quantiser,
        group_size=group_size,
        symmetric=symmetric,
        river_activation=river_activation,
        kernels=kernels,
        backbone_bits=backbone_bits,
        backend=backend,
        kv_cache=kv_cache,
        calibrate=False,
    )
    manifest = build(options)
    source = ModelSource.open(str(directory / "model"))
    made = make_quantiser(quantiser, group_size, symmetric)
    reference = load_decoder(
        source,
        made,
        river_format(source.config, made, group_size, symmetric),
        manifest.model.shape.max_seq_len,
        read_calibration(directory / "none", source.config, None).token_ids,
    )
    for layer in reference.layers:
        assert isinstance(layer, DecoderLayer)
        for linear in layer.linears().values():
            linear.weight = stored_backbone(linear.weight, backbone_bits or 32, group_size)
    return Pair(hf, reference, river_trt.load(directory / "engine"), directory / "engine")


def stored_backbone(weight: torch.Tensor, bits: int, group_size: int) -> torch.Tensor:
    """What an engine with such a backbone multiplies with, float32 [N, K]."""
    if bits == 8:
        return quantise_integer(weight, 8, group_size).dequantise(weight.shape[1])
    return weight.half().float() if bits == 16 else weight


def policy(
    num_layers: int, tau: Any, pinned: tuple[int, ...] = (), directions: np.ndarray | None = None
) -> ExitPolicy:
    """tau: one number or one a layer; pinned: layers from 1."""
    taus = np.broadcast_to(np.asarray(tau, np.float32), (num_layers,)).copy()
    return ExitPolicy(taus, np.isin(np.arange(1, num_layers + 1), pinned), directions)


def forced_exit(num_layers: int, layer: int, pinned: tuple[int, ...] = ()) -> ExitPolicy:
    """Every token exits after `layer`."""
    tau = np.full(num_layers, np.inf, np.float32)
    tau[layer - 1] = -np.inf
    return policy(num_layers, tau, pinned)
