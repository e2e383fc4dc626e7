"""The direction gate's vectors, in closed form: which hidden states can do without the backbone."""

import numpy as np

RIDGE = 0.3  # of the mean variance of a coordinate


def fit_direction(
    h: np.ndarray,  # [positions, hidden]
    kl: np.ndarray,  # [positions] nats: what leaving here costs the token
) -> np.ndarray:
    """Unit vector float32 [hidden] whose cosine with h is high where leaving costs little.

    Ridge regression of the unit hidden states on the square root of the KL: the KL itself is ruled
    by a few tokens, its logarithm by differences between tokens that cost nothing
    (docs/calibration.md).
    """
    unit = h / np.linalg.norm(h, axis=1, keepdims=True).clip(1e-30)
    unit = unit - unit.mean(0, dtype=np.float64).astype(np.float32)
    cost = np.sqrt(np.maximum(kl, 0))
    gram = (unit.T @ unit).astype(np.float64)
    gram[np.diag_indices_from(gram)] += RIDGE * max(gram.trace() / len(gram), 1e-30)
    moment = unit.T @ (cost - cost.mean()).astype(np.float32)
    vector = -np.linalg.solve(gram, moment.astype(np.float64))
    direction: np.ndarray = (vector / max(np.linalg.norm(vector), 1e-30)).astype(np.float32)
    return direction
