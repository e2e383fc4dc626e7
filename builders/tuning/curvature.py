"""How much KL an error in a linear's weights costs, from text that the model wrote itself.

A token t of such text is a draw from the model's own distribution, so with the linear's input x and
the gradient g of the token's surprise at its output, the mean of (g g') x (x x') over tokens is the
Fisher matrix: the curvature of the KL between the backbone and a model with errors. Kept are its
two factors (K-FAC): of the inputs, weighted by |g|^2, and of the outputs, weighted by |x|^2.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from builders.tuning.backbone import Backbone, batches
from builders.tuning.rounding import Curvature
from river_trt.progress import Progress

TOKENS_AT_ONCE = 1280
SKIP = 8  # first positions of a text, whose surprise does not count
POSITIONS_AT_ONCE = 128  # whose distributions are in memory


class _Sums:
    def __init__(self, weight: Tensor, parts: int) -> None:
        n, k = weight.shape
        self.inputs = torch.zeros(k, k)
        self.outputs = torch.zeros(parts, n // parts, n // parts)
        self.both, self.tokens = 0.0, 0

    def add(self, x: Tensor, grad: Tensor) -> None:
        x_norms, grad_norms = x.float().square().sum(1), grad.float().square().sum(1)
        weighted = x * grad_norms.sqrt()[:, None].to(x.dtype)
        self.inputs += weighted.T @ weighted
        weighted = grad * x_norms.sqrt()[:, None].to(grad.dtype)
        for total, part in zip(self.outputs, weighted.chunk(len(self.outputs), 1), strict=True):
            total += part.T.contiguous() @ part
        self.both += float(x_norms @ grad_norms)
        self.tokens += len(x)

    def curvature(self) -> Curvature:
        # A linear that no token depends on has no gradient at all.
        both = self.both or 1.0
        return Curvature(self.inputs / both, self.outputs / max(1, self.tokens))


def measure_curvature(
    backbone: Backbone,
    texts: Tensor,  # [texts, tokens], written by the backbone, or as good as that
    progress: Progress,
) -> list[dict[str, Curvature]]:
    """Of the linears of each layer, by name; the first layer, always on the backbone, has none."""
    sums: list[dict[str, _Sums]] = []
    for linears in backbone.linears[1:]:
        sums.append({})
        for name, linear in linears.items():
            # gate and up are two linears with the same inputs.
            sums[-1][name] = _Sums(linear.weight, 2 if name == "gate_up" else 1)
            linear.watch = sums[-1][name].add
    done = 0
    for some in batches(texts, TOKENS_AT_ONCE):
        _backward(backbone, some)
        done += len(some)
        progress("measuring curvature", done, len(texts))
    for linears in backbone.linears:
        for linear in linears.values():
            linear.watch = None
    return [{}, *({name: s.curvature() for name, s in of_layer.items()} for of_layer in sums)]


def _backward(backbone: Backbone, texts: Tensor) -> None:
    """Let the watched linears see the gradients of these texts' surprise."""
    with torch.enable_grad():
        hidden = backbone.hidden(texts)
        scored = hidden.detach()[:, SKIP:-1].flatten(0, 1).requires_grad_()
        following = texts[:, SKIP + 1 :].flatten()
        pieces = (torch.split(each, POSITIONS_AT_ONCE) for each in (scored, following))
        for states, ids in zip(*pieces, strict=True):
            surprise = cross_entropy(backbone.logits(states), ids, reduction="sum")
            torch.autograd.backward(surprise)
        grad = torch.zeros_like(hidden)
        assert scored.grad is not None
        grad[:, SKIP:-1] = scored.grad.view_as(grad[:, SKIP:-1])
        torch.autograd.backward(hidden, grad)
