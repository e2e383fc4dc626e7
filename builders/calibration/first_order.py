"""How much each layer's river costs, for all layers at once: one backward pass over some text.

The KL that a small change d of a layer's output causes is d' F d / 2, F the Fisher information:
the mean of g g' over tokens y drawn from the model itself, g the gradient of log p(y) there.

    quantising, layer by layer     h_(l-1) --+-- backbone -- h_l
                                             +-- river ----- h_l + d_l
    then from the last layer back  g_(l-1) <-- g_l            cost_l = (g_l . d_l)^2 / 2

Errors of neighbouring positions are alike and add up, so g . d is summed over a few of them before
it is squared. More would leave too few squares to average.

Weights are read layer by layer both times, so it takes no more memory than the build.
"""

import numpy as np
import torch
from torch import Tensor

from builders.calibration_inputs import run_layer
from builders.decoder import BACKBONE_ONLY, DecoderLayer, RiverFormat
from builders.position_tables import position_tables
from builders.quantisers.base import RiverWeight
from builders.river_bank import format_of
from builders.source import ModelSource
from builders.weights import LayerWeights
from river_trt.progress import Progress

WINDOW = 4  # positions


class FirstOrder:
    """Watches a build's layers go by, then walks back through the backbone."""

    def __init__(self, source: ModelSource, tokens: int, skip: int = 4) -> None:
        """tokens: of each text. skip: first positions of a text, which are not scored."""
        self.source, self.skip = source, skip
        self._tables = position_tables(source.config, tokens)
        self._inputs: list[Tensor] = []  # of each layer, [texts, tokens, hidden]
        self._errors: list[Tensor] = []  # d_l, as long
        self._last: Tensor | None = None

    def watch(
        self,
        weights: LayerWeights,
        river: dict[str, RiverWeight],
        before: Tensor,  # [texts, tokens, hidden]
        after: Tensor,  # what the backbone makes of it
    ) -> None:
        """The next layer, with what the backbone's states are around it."""
        layer = self._layer(len(self._inputs), format_of(river))
        layer.assign(weights, river)
        spec = self.source.config.layers[len(self._inputs)]
        found = run_layer(layer, self.source.config, spec, self._tables, before, on_river=True)
        self._inputs.append(before)
        self._errors.append(found - after)
        self._last = after

    def costs(self, progress: Progress) -> np.ndarray:
        """KL of each layer alone on the river, nats a token: float64 [L]. Called once, at the end.

        Layer 1 never runs the river, so its entry is infinite.
        """
        config, total = self.source.config, len(self._inputs)
        progress("sensitivity", 0, total)
        gradient = self._output_gradient()
        costs = np.full(total, np.inf)
        for index in range(total - 1, 0, -1):
            found = (gradient * self._errors[index]).sum(-1)[:, self.skip :].double()
            costs[index] = float(window_sums(found).square().mean()) / 2 / WINDOW
            layer = self._layer(index, BACKBONE_ONLY)
            layer.assign_backbone(self.source.layer(index))
            h = self._inputs[index].requires_grad_()
            with torch.enable_grad():
                out = run_layer(layer, config, config.layers[index], self._tables, h, False)
                (gradient,) = torch.autograd.grad(out, h, gradient)
            progress("sensitivity", total - index, total)
        progress("sensitivity", total, total)
        return costs

    def _output_gradient(self) -> Tensor:
        """Of the log-likelihood of one drawn token a position, [texts, tokens, hidden]."""
        config, shared = self.source.config, self.source.shared()
        head, norm = shared.lm_head.float(), shared.final_norm
        draw = torch.Generator().manual_seed(0)
        assert self._last is not None, "some layer went by"
        gradients = []
        for text in self._last:  # one at a time: logits are wide
            h = text.detach().requires_grad_()
            with torch.enable_grad():
                normed = torch.nn.functional.rms_norm(h, norm.shape, norm, config.norm_eps)
                logits = normed @ head.T
                if config.final_softcap is not None:
                    logits = config.final_softcap * torch.tanh(logits / config.final_softcap)
                log_p = logits.log_softmax(-1)[self.skip :]
                drawn = torch.multinomial(log_p.detach().exp(), 1, generator=draw)
                (gradient,) = torch.autograd.grad(log_p.gather(1, drawn).sum(), h)
            gradients.append(gradient)
        return torch.stack(gradients)

    def _layer(self, index: int, layout: RiverFormat) -> DecoderLayer:
        config = self.source.config
        return DecoderLayer(config, config.layers[index], layout)


def window_sums(
    values: Tensor,  # [texts, positions]
) -> Tensor:
    """Of WINDOW neighbours each, [texts, windows]; what is left over at the end is not summed."""
    windows = values.shape[1] // WINDOW
    return values[:, : windows * WINDOW].reshape(len(values), windows, WINDOW).sum(-1)
