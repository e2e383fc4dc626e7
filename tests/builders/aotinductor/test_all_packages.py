"""Every family as a compiled package. test_program.py runs the same programs uncompiled."""

import numpy as np
import pytest

from river_trt.spec import ExitPolicy
from tests.builders.families.tiny_models import TINY_MODELS, save_tiny_model
from tests.builders.tiny_engines import forced_exit, pair_of, policy

IDS = np.random.default_rng(0).integers(3, 112, (2, 20))


@pytest.mark.parametrize("family", TINY_MODELS)
def test_package_equals_the_reference(family, tmp_path):
    tiny = TINY_MODELS[family]
    hf = save_tiny_model(tmp_path / "model", tiny)
    pair = pair_of(tmp_path, hf, quantiser=tiny.quantiser, backend="aotinductor")
    layers = pair.engine.num_layers
    for chosen in (ExitPolicy.full_depth(layers), forced_exit(layers, 1), policy(layers, 0.4)):
        pair.assert_equal(IDS, chosen)
