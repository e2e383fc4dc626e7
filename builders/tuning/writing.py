"""Text of the model's own, as it goes on from a few tokens: no other text is like what it knows."""

import torch
from torch import Tensor

from builders.tuning.backbone import Backbone
from river_trt.progress import Progress

BEGINNING = 4  # tokens of a text; every second one begins with one random token instead
ROWS_AT_ONCE = 32  # whose distributions are in memory


@torch.no_grad()
def write_texts(
    backbone: Backbone,
    beginnings: Tensor,  # [texts, BEGINNING or fewer]
    tokens: int,
    progress: Progress,
) -> Tensor:
    """int64 [texts, tokens], sampled from the model's whole distribution; the same every time."""
    config, count = backbone.config, len(beginnings)
    seeded = torch.Generator().manual_seed(0)
    ids = torch.zeros(count, tokens, dtype=torch.int64)
    known = min(beginnings.shape[1], tokens)
    ids[:, :known] = beginnings[:, :known]
    ids[1::2, 0] = torch.randint(config.vocab_size, (len(ids[1::2]),), generator=seeded)
    begun = torch.full((count,), known)
    begun[1::2] = 1
    cache = torch.zeros(count, config.num_kv_heads, 0, config.head_dim)
    caches = [cache] * (2 * config.num_layers)
    for position in range(tokens - 1):
        hidden = backbone.hidden(ids[:, position : position + 1], caches)[:, 0]
        drawn = torch.cat(
            [_draw(backbone.logits(h), seeded) for h in torch.split(hidden, ROWS_AT_ONCE)]
        )
        ids[:, position + 1] = torch.where(begun > position + 1, ids[:, position + 1], drawn)
        progress("writing text to tune on", position + 1, tokens - 1)
    return ids


def _draw(logits: Tensor, seeded: torch.Generator) -> Tensor:
    """A token of each row, by its probabilities."""
    summed = logits.softmax(-1).cumsum(-1)
    point = torch.rand(len(logits), 1, generator=seeded) * summed[:, -1:]
    return torch.searchsorted(summed, point)[:, 0].clamp(max=logits.shape[-1] - 1)
