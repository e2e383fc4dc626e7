"""Both banks of every layer, one layer in memory at a time."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from builders.calibration_inputs import CalibrationInputs
from builders.decoder import DecoderLayer, RiverDecoder, RiverFormat
from builders.quantisers import Quantiser, RiverWeight
from builders.source import ModelSource
from builders.weights import LayerWeights, SharedWeights


@dataclass(frozen=True, slots=True, eq=False)
class LayerBanks:
    """One layer: backbone, norms and biases, and the river of its four linears."""

    weights: LayerWeights
    river: dict[str, RiverWeight]


def stream_layers(
    source: ModelSource,
    quantiser: Quantiser,
    shared: SharedWeights,
    calibration_ids: Tensor | None = None,  # [texts, tokens]; for quantisers that need inputs
) -> Iterator[LayerBanks]:
    """Read and quantise layer after layer."""
    calibration = None
    if quantiser.needs_inputs:
        assert calibration_ids is not None, f"{quantiser.name} reads calibration text"
        calibration = CalibrationInputs(source.config, shared.embedding, calibration_ids)
    for index in range(source.config.num_layers):
        weights = source.layer(index)
        inputs = calibration.advance(weights) if calibration else {}
        river = {
            name: quantiser.quantise(weight, inputs.get(name))
            for name, weight in weights.linears.items()
        }
        yield LayerBanks(weights, river)


def river_format(quantiser: Quantiser, group_size: int, symmetric: bool) -> RiverFormat:
    return RiverFormat(group_size, symmetric, pre_scale=quantiser.needs_inputs)


def load_decoder(
    source: ModelSource,
    quantiser: Quantiser,
    river: RiverFormat,
    max_seq_len: int,
    calibration_ids: Tensor | None = None,
    lm_head: Tensor | None = None,  # float32 [vocab, hidden]; None: the checkpoint's
) -> RiverDecoder:
    """The whole model in memory: the reference that engines are compared with."""
    decoder = RiverDecoder(source.config, river, max_seq_len)
    shared = source.shared()
    decoder.assign_shared(shared, lm_head)
    banks = stream_layers(source, quantiser, shared, calibration_ids)
    for layer, bank in zip(decoder.layers, banks, strict=True):
        assert isinstance(layer, DecoderLayer)
        layer.assign(bank.weights, bank.river)
    return decoder.eval()
