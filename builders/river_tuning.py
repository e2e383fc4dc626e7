"""The river trained as a whole, so that a model all on it says what its backbone says.

text --+-- backbone ------------------------- p
       +-- layer 1: backbone, then the river - q     loss: KL(p || q), mean over positions

Each linear's rounding is fitted to its own output (AWQ); here the scale of every group, and the
input scalings, move together. Codes and zero points stay, so no byte is added. It is the second
phase of EfficientQAT (arXiv 2407.11062) with the backbone as the teacher.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from builders.calibration.texts import PIECE_TOKENS
from builders.calibration_inputs import run_layer
from builders.decoder import DecoderLayer, RiverLinear
from builders.evaluation.metrics import kl_divergence
from builders.families import ModelConfig
from builders.memory import available_memory
from builders.position_tables import position_tables
from builders.quantisers.base import RiverWeight
from builders.river_bank import format_of
from builders.source import ModelSource
from builders.weights import SharedWeights
from river_trt.errors import RiverError
from river_trt.progress import Progress

STEPS, TEXTS_A_STEP = 6, 5
RATE = 3e-3  # of the logarithm of a scale, a step; three times as much and it diverges
WARM_UP = 3  # steps
SKIP = 16  # first positions of a text, not scored
BYTES_A_WEIGHT = 6  # both banks, and what a step keeps of its scales
LOGITS_AT_ONCE = 6  # arrays of a text's logits, its gradient's included


def tune_river(
    source: ModelSource,
    shared: SharedWeights,
    rivers: Sequence[dict[str, RiverWeight]],  # of each layer
    token_ids: Tensor,  # [texts, tokens]; read again from the first where they are too few
    progress: Progress,
) -> list[dict[str, RiverWeight]]:
    """The rivers with trained scales; the same numbers every time on one machine.

    The whole model is in memory, in float32.
    """
    model = _Model(source, shared, rivers, token_ids.shape[1])
    optimiser = torch.optim.Adam(model.logarithms, betas=(0.9, 0.95), eps=1e-12)
    progress("tuning", 0, STEPS)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * step / STEPS))
            group["lr"] = RATE * cosine * min(1.0, (step + 1) / WARM_UP)
        chosen = torch.arange(step * TEXTS_A_STEP, (step + 1) * TEXTS_A_STEP) % len(token_ids)
        optimiser.zero_grad()
        model.add_gradients(token_ids[chosen])
        optimiser.step()
        progress("tuning", step + 1, STEPS)
    return model.rivers()


class _Model:
    """Both banks of a model, and logarithms by which scales are multiplied."""

    def __init__(
        self,
        source: ModelSource,
        shared: SharedWeights,
        rivers: Sequence[dict[str, RiverWeight]],
        tokens: int,
    ) -> None:
        self.config = config = source.config
        self.embedding, self.norm = shared.embedding, shared.final_norm
        self.head = shared.lm_head.float()
        self.tables = position_tables(config, tokens)
        self.start = rivers
        self.layers: list[DecoderLayer] = []
        for index, river in enumerate(rivers):
            layer = DecoderLayer(config, config.layers[index], format_of(river))
            layer.assign(source.layer(index), river)
            self.layers.append(layer)
        # Layer 1 never runs its river.
        self.trained = [
            _TrainedLinear(linear, river[name])
            for layer, river in zip(self.layers[1:], rivers[1:], strict=True)
            for name, linear in layer.linears().items()
        ]
        self.logarithms = [
            logarithm for linear in self.trained for logarithm in linear.logarithms()
        ]

    def hidden(self, token_ids: Tensor, on_river: bool) -> Tensor:
        """What the head is given, [texts, positions, hidden]."""
        config = self.config
        h = self.embedding[token_ids].float() * config.embedding_scale
        for index, layer in enumerate(self.layers):
            river = on_river and index > 0
            h = run_layer(layer, config, config.layers[index], self.tables, h, river)
        normed: Tensor = torch.nn.functional.rms_norm(
            h[:, SKIP:], self.norm.shape, self.norm, config.norm_eps
        )
        return normed

    def logits(self, hidden: Tensor) -> Tensor:
        logits, cap = hidden @ self.head.T, self.config.final_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def add_gradients(self, token_ids: Tensor) -> None:
        """Of the mean KL of these texts, [texts, tokens]."""
        with torch.no_grad():
            expected = self.hidden(token_ids, on_river=False)
        with torch.enable_grad():
            for linear in self.trained:
                linear.assign()
            found = self.hidden(token_ids, on_river=True)
            cut = found.detach().requires_grad_()
            for teacher, student in zip(expected, cut, strict=True):  # logits are wide
                loss = kl_divergence(self.logits(teacher), self.logits(student)).mean()
                torch.autograd.backward(loss / len(cut))
            torch.autograd.backward(found, cut.grad)

    @torch.no_grad()
    def rivers(self) -> list[dict[str, RiverWeight]]:
        trained = iter(self.trained)
        return [
            self.start[0],
            *({name: next(trained).river() for name in river} for river in self.start[1:]),
        ]


class _TrainedLinear:
    """A linear's river whose scales are the first ones times exp of what is trained."""

    def __init__(self, linear: RiverLinear, start: RiverWeight) -> None:
        self.linear, self.start = linear, start
        self.scales = torch.zeros_like(start.scales, requires_grad=True)
        self.pre_scale: Tensor | None = None
        if start.pre_scale is not None:
            self.pre_scale = torch.zeros_like(start.pre_scale, requires_grad=True)

    def logarithms(self) -> list[Tensor]:
        return [self.scales] if self.pre_scale is None else [self.scales, self.pre_scale]

    def river(self) -> RiverWeight:
        scales, pre_scale = self.start.scales * self.scales.exp(), self.start.pre_scale
        if pre_scale is not None and self.pre_scale is not None:
            pre_scale = pre_scale * self.pre_scale.exp()
        return replace(self.start, scales=scales, pre_scale=pre_scale)

    def assign(self) -> None:
        self.linear.assign_river(self.river())


def bytes_needed(config: ModelConfig, num_parameters: int) -> int:
    """About: weights, each linear's input and output twice for one step's tokens, logits."""
    widths = config.num_layers * sum(sum(shape) for shape in config.linear_shapes.values())
    activations = 2 * TEXTS_A_STEP * widths + LOGITS_AT_ONCE * config.vocab_size
    return BYTES_A_WEIGHT * num_parameters + 4 * PIECE_TOKENS * activations


def check_memory(source: ModelSource) -> None:
    """RiverError where the model cannot be trained in what is free."""
    needed, available = bytes_needed(source.config, source.num_parameters), available_memory()
    if available is not None and needed > available:
        raise RiverError(
            f"the quantiser tuned needs about {needed / 1e9:.1f} GB of memory and "
            f"{available / 1e9:.1f} GB are free; choose --quantiser awq, which needs one layer's"
        )
