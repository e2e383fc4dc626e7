"""How far a policy takes a model from its own backbone, measured on text."""

from builders.evaluation.intervals import Estimate, bootstrap_mean
from builders.evaluation.metrics import agreement, kl_divergence, surprise
from builders.evaluation.quality import Quality, evaluate

__all__ = [
    "Estimate",
    "Quality",
    "agreement",
    "bootstrap_mean",
    "evaluate",
    "kl_divergence",
    "surprise",
]
