"""Both banks of every layer, one layer in memory at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from builders.calibration_inputs import CalibrationInputs
from builders.calibration_text import TEXTS
from builders.decoder import DecoderLayer, RiverDecoder, RiverFormat
from builders.families import ModelConfig
from builders.quantisers import Quantiser, RiverWeight
from builders.quantisers.tuned import Tuned
from builders.source import ModelSource
from builders.weights import LayerWeights, SharedWeights
from river_trt.progress import Progress, silent


@dataclass(frozen=True, slots=True, eq=False)
class LayerBanks:
    """One layer: backbone, norms and biases, and the river of its four linears."""

    weights: LayerWeights
    river: dict[str, RiverWeight]


class LayerWatch(Protocol):
    """What looks at the layers of a build as they go by."""

    def token_ids(self) -> Tensor | None:
        """Text to push through the layers where the quantiser reads none, [texts, tokens]."""
        ...

    def layer(
        self, weights: LayerWeights, river: dict[str, RiverWeight], before: Tensor, after: Tensor
    ) -> None:
        """The next layer; the backbone's states around it, [texts, tokens, hidden]."""
        ...


def stream_layers(
    source: ModelSource,
    quantiser: Quantiser,
    shared: SharedWeights,
    calibration_ids: Tensor | None = None,  # [texts, tokens]; for quantisers that need inputs
    watch: LayerWatch | None = None,
    progress: Progress = silent,  # of what comes before the first layer
) -> Iterator[LayerBanks]:
    """Read and quantise layer after layer."""
    rivers = None
    if isinstance(quantiser, Tuned):
        assert calibration_ids is not None, f"{quantiser.name} reads calibration text"
        rivers = _tuned(source, quantiser, shared, calibration_ids, progress)
    calibration = None
    if quantiser.needs_inputs:
        assert calibration_ids is not None, f"{quantiser.name} reads calibration text"
    elif watch is not None:
        calibration_ids = watch.token_ids()
    looks = watch is not None or rivers is None  # else nobody asks for a linear's inputs again
    if calibration_ids is not None and looks:
        first = calibration_ids[:TEXTS]
        calibration = CalibrationInputs(source.config, shared.embedding, first)
    for index in range(source.config.num_layers):
        weights = source.layer(index)
        before = calibration.h if calibration else None
        inputs = calibration.advance(weights) if calibration else {}
        if rivers is not None:
            river = rivers[index]
        else:
            river = {
                name: quantiser.quantise(weight, inputs.get(name))
                for name, weight in weights.linears.items()
            }
            if folds_down(source.config, quantiser):
                river = fold_down_pre_scale(river)
        if watch is not None and calibration is not None and before is not None:
            watch.layer(weights, river, before, calibration.h)
        yield LayerBanks(weights, river)


def _tuned(
    source: ModelSource,
    quantiser: Tuned,
    shared: SharedWeights,
    calibration_ids: Tensor,
    progress: Progress,
) -> list[dict[str, RiverWeight]]:
    """The river of every layer, tuned once all are quantised."""
    from builders.tuning.tune import check_memory, tune_river  # it tunes what this module makes

    check_memory(source)
    rivers: list[dict[str, RiverWeight]] = []
    layers = source.config.num_layers
    start = quantiser.start()
    calibration = CalibrationInputs(source.config, shared.embedding, calibration_ids[:TEXTS])
    for index in range(layers):
        progress("quantising before tuning", index, layers)
        weights = source.layer(index)
        inputs = calibration.advance(weights)
        rivers.append(
            {name: start.quantise(w, inputs[name]) for name, w in weights.linears.items()}
        )
    progress("quantising before tuning", layers, layers)
    tuned = tune_river(source, shared, rivers, calibration_ids, progress)
    return [fold_down_pre_scale(r) for r in tuned] if folds_down(source.config, start) else tuned


def folds_down(config: ModelConfig, quantiser: Quantiser) -> bool:
    """Whether down's input scaling moves into up: not past up's bias, which both banks share."""
    return quantiser.needs_inputs and "gate_up" not in config.biased_linears


def fold_down_pre_scale(river: dict[str, RiverWeight]) -> dict[str, RiverWeight]:
    """Move down's input scaling into the rows of up: down(scale * act(g) * u) with u scaled.

    Both are in the river, so nothing that the banks share changes, and a decode step has one
    kernel less. The scaling of `o` must stay: it would go into v, which is cached.
    """
    pre_scale = river["down"].pre_scale
    assert pre_scale is not None
    factors = torch.cat([torch.ones_like(pre_scale), pre_scale])  # gate, up
    return river | {
        "gate_up": river["gate_up"].scale_rows(factors),
        "down": replace(river["down"], pre_scale=None),
    }


def river_format(
    config: ModelConfig, quantiser: Quantiser, group_size: int, symmetric: bool
) -> RiverFormat:
    scaled = frozenset(config.linear_shapes) if quantiser.needs_inputs else frozenset()
    if folds_down(config, quantiser):
        scaled -= {"down"}
    return RiverFormat(group_size, symmetric, scaled)


def format_of(river: dict[str, RiverWeight]) -> RiverFormat:
    """Of the linears of a layer, by name."""
    first = next(iter(river.values()))
    scaled = frozenset(name for name, weight in river.items() if weight.pre_scale is not None)
    return RiverFormat(first.group_size, first.zero_points is None, scaled)


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
