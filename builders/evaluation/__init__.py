"""How far a policy takes a model from its own backbone, measured on text."""

from builders.evaluation.intervals import Estimate, bootstrap_mean
from builders.evaluation.quality import Quality, agreement, evaluate, kl_divergence, surprise

__all__ = [
    "Estimate",
    "Quality",
    "agreement",
    "bootstrap_mean",
    "evaluate",
    "kl_divergence",
    "surprise",
]
