"""The direction gate's vectors, in closed form: which hidden states can do without the backbone."""

import numpy as np

RIDGE = 0.3  # of the mean variance of a coordinate


class DirectionFit:
    """Ridge regression of one layer's unit hidden states on what an exit there would cost.

    The factorisation depends on the hidden states alone and serves every set of pins. The square
    root of the KL is the target: the KL itself is ruled by a few tokens, and its logarithm by
    differences between tokens that cost nothing (docs/calibration.md).
    """

    def __init__(
        self,
        h: np.ndarray,  # [positions, hidden]
    ) -> None:
        unit = h / np.linalg.norm(h, axis=1, keepdims=True).clip(1e-30)
        self._mean = unit.mean(0, dtype=np.float64)
        self._centred = unit - self._mean.astype(np.float32)
        gram = (self._centred.T @ self._centred).astype(np.float64)
        gram[np.diag_indices_from(gram)] += RIDGE * gram.trace() / len(gram)
        self._gram = gram

    def direction(
        self,
        kl: np.ndarray,  # [positions] nats
    ) -> np.ndarray:
        """Unit vector float32 [hidden]; its cosine with h is high where an exit costs little."""
        cost = np.sqrt(np.maximum(kl, 0))
        moment = self._centred.T @ (cost - cost.mean()).astype(np.float32)
        vector = -np.linalg.solve(self._gram, moment.astype(np.float64))
        unit: np.ndarray = (vector / max(np.linalg.norm(vector), 1e-30)).astype(np.float32)
        return unit


def cosine(
    a: np.ndarray,  # [positions, hidden]
    b: np.ndarray,  # [positions, hidden] or [hidden]
) -> np.ndarray:
    """The gate's score, float32 [positions]."""
    dot = (a * b).sum(-1)
    norms: np.ndarray = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    score: np.ndarray = dot / norms.clip(1e-30)
    return score
