"""How sure the river is of a token, and how often the backbone then says the same.

Full-depth greedy text, with one token drafted at each position: the draft step reads the backbone's
K and V of all tokens before it, and the full-depth step overwrites what it wrote.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from river_trt import Engine
from river_trt.spec import ExitPolicy

EDGES = (0.0, 0.1, 0.2, 0.4, 0.7, 1.0, 1.5, 2.5, float("inf"))  # of the lead, logits


def draft_leads(
    engine: Engine,
    prompt: Sequence[int],
    tokens: int,  # of the text
) -> tuple[np.ndarray, np.ndarray]:
    """Of each drafted token: its lead over the runner-up [tokens] float32, and whether it was
    accepted [tokens] bool. Drafts with the engine's own draft policy, in cache row 0."""
    full = ExitPolicy.full_depth(engine.num_layers)
    last = np.array([len(prompt) - 1])
    logits, _ = engine.forward(np.array([prompt]), full, logit_indices=last)
    leads, accepted = np.zeros(tokens, np.float32), np.zeros(tokens, np.bool_)
    for index in range(tokens):
        ids, past = np.array([[logits[0, -1].argmax()]]), len(prompt) + index
        drafted, _ = engine.forward(ids, engine.draft_policy, past_length=past)
        logits, _ = engine.forward(ids, full, past_length=past)
        second, best = np.partition(drafted[0, 0], -2)[-2:]
        leads[index] = best - second
        accepted[index] = drafted[0, 0].argmax() == logits[0, 0].argmax()
    return leads, accepted


def by_lead(
    leads: np.ndarray,  # [tokens] float32
    accepted: np.ndarray,  # [tokens] bool
) -> list[tuple[float, float]]:
    """Of each interval of EDGES: the share of tokens in it, and the share of those accepted (nan
    where there are none)."""
    found = []
    for low, high in itertools.pairwise(EDGES):
        inside = (leads >= low) & (leads < high)
        share = float(accepted[inside].mean()) if inside.any() else float("nan")
        found.append((float(inside.mean()), share))
    return found
