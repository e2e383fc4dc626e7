"""The paper's policy within a budget: the similarity gate, one tau for all layers, no pins."""

from collections.abc import Sequence

import numpy as np

from builders.calibration.material import renamed
from builders.calibration.search import Measured, measured
from builders.evaluation.policies import gate_scores, paper_taus
from builders.evaluation.scores import score
from builders.evaluation.subject import Subject
from river_trt.progress import Progress
from river_trt.spec import ExitPolicy


class PaperSearch:
    """One tau for each budget, found from the similarities of the choose part at full depth."""

    def __init__(
        self, subject: Subject, pieces: Sequence[np.ndarray], skip: int, progress: Progress
    ) -> None:
        self._subject, self._pieces = subject, pieces
        self._skip, self._progress = skip, progress
        self._similarity = gate_scores(subject, pieces, None)

    def policy(self, layers: float) -> ExitPolicy:
        """Mean backbone layers near `layers`."""
        num_layers = self._subject.num_layers
        taus = paper_taus(self._similarity, [layers], num_layers)
        # No tau between the ends gives that depth: it is all river or full depth itself.
        end = -np.inf if layers < num_layers / 2 else np.inf
        return ExitPolicy.uniform(num_layers, taus[0] if taus else end)

    def at(self, layers: float) -> Measured:
        policy = self.policy(layers)
        stage = renamed(self._progress, "candidates")
        (found,) = score(self._subject, self._pieces, [policy], self._skip, stage)
        return measured(policy, f"similarity gate, tau {policy.tau[0]:.4g}", found)
