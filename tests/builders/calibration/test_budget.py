import numpy as np
import pytest

from builders.calibration.budget import Budget
from builders.calibration.search import Measured, within_budget
from river_trt.errors import RiverError
from river_trt.spec import ExitPolicy


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("target-layers", 0.5, "--target-layers 0.5 cannot be met: .* the best is 1 to 30"),
        ("target-layers", 31, "cannot be met: .* 30 layers"),
        ("max-kl", -0.1, "--max-kl -0.1 cannot be met: the best is 0"),
        ("min-agreement", 1.5, "--min-agreement 1.5 cannot be met: .* at best 1"),
        ("min-agreement", -1, "cannot be met"),
        ("max-kl", float("nan"), "--max-kl must be a number"),
    ],
)
def test_impossible_budget_names_the_best(kind, value, message):
    with pytest.raises(RiverError, match=message):
        Budget(kind, value).check(30)


@pytest.mark.parametrize(
    "budget", [Budget("target-layers", 1), Budget("max-kl", 0), Budget("min-agreement", 1)]
)
def test_hardest_budget_that_can_be_met_passes(budget):
    budget.check(30)


def at(layers: float) -> Measured:
    """KL falls and agreement rises in a straight line with the layers."""
    missing = 1 - layers / 30
    return Measured(ExitPolicy.full_depth(30), "", 0.3 * missing, 1 - 0.5 * missing, layers)


@pytest.mark.parametrize("budget", [Budget("max-kl", 0.1), Budget("min-agreement", 5 / 6)])
def test_fewest_layers_that_meet_the_quality(budget):
    found = within_budget(at, budget, 30)
    assert budget.met_by(found.kl, found.agreement)
    assert 20 <= found.backbone_layers < 21  # 20 is exact; five halvings of 29 layers leave 0.9


def test_no_loss_at_all_is_full_depth():
    assert within_budget(at, Budget("max-kl", 0), 30).backbone_layers == 30


def test_target_layers_is_taken_as_given():
    assert within_budget(at, Budget("target-layers", 7.5), 30).backbone_layers == 7.5


def test_met_by():
    assert Budget("max-kl", 0.1).met_by(0.1, 0) and not Budget("max-kl", 0.1).met_by(0.11, 1)
    assert Budget("min-agreement", 0.9).met_by(9, 0.9)
    assert not Budget("min-agreement", 0.9).met_by(0, 0.89)
    assert Budget("target-layers", 1).met_by(np.inf, 0)
