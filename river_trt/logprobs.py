"""Log-probabilities of tokens: the model's own, before temperature, penalties, biases and masks."""

from collections.abc import Sequence

import numpy as np

from river_trt.backends.base import ChosenOutput
from river_trt.results import TokenLogprobs


def token_logprobs(
    logits: np.ndarray,  # [n, vocab] float32
    token_ids: Sequence[int],  # n, what came after each
    count: int,
) -> list[TokenLogprobs]:
    """Of each token, with the `count` best ones of its place; of equals the lower id first."""
    scores = logits.astype(np.float64)
    scores -= scores.max(-1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
    return [_of_row(row, token, count) for row, token in zip(scores, token_ids, strict=True)]


def chosen_logprobs(out: ChosenOutput, row: int, index: int, count: int) -> TokenLogprobs:
    """Of the token that a session chose, from what it kept of the logits."""
    assert out.logprob is not None and out.top_ids is not None and out.top_logprobs is not None
    best = zip(out.top_ids[row, index].tolist(), out.top_logprobs[row, index].tolist(), strict=True)
    token, logprob = int(out.tokens[row, index]), float(out.logprob[row, index])
    return TokenLogprobs(token, logprob, tuple(best)[:count])


def _of_row(scores: np.ndarray, token: int, count: int) -> TokenLogprobs:
    best: tuple[tuple[int, float], ...] = ()
    if count == 1:  # argmax takes a fraction of a partition's time
        place = int(scores.argmax())
        best = ((place, float(scores[place])),)
    elif count:
        count = min(count, len(scores))
        least = np.partition(scores, -count)[-count]
        places = np.flatnonzero(scores >= least)
        places = places[np.argsort(-scores[places], kind="stable")][:count]
        best = tuple((int(place), float(scores[place])) for place in places)
    return TokenLogprobs(token, float(scores[token]), best)
