"""ONNX Runtime itself takes no weights behind a link, and the hub's cache is made of links."""

import numpy as np
import pytest

import river_trt
from river_trt.engine_dir import replace_policy
from river_trt.spec import ExitPolicy
from tests.builders.tiny_engines import build_pair
from tests.river_trt.hub_cache import in_hub_cache

IDS = np.arange(3, 15)[None]


@pytest.mark.parametrize("kernels", ["native", "onnxruntime"])
def test_engine_runs_from_the_hubs_cache(kernels, tmp_path):
    pair = build_pair(tmp_path, kernels=kernels, num_hidden_layers=2)
    logits, _ = pair.engine.forward(IDS)
    hidden = pair.engine.stepper.hidden_states(IDS[0])
    snapshot = in_hub_cache(pair.directory, tmp_path / "cache")
    engine = river_trt.load(snapshot)
    np.testing.assert_array_equal(engine.forward(IDS)[0], logits)
    # Calibration reads the graph once more.
    np.testing.assert_array_equal(engine.stepper.hidden_states(IDS[0]), hidden)
    replace_policy(snapshot, ExitPolicy.full_depth(2), "by hand")  # the blobs stay as they are
    assert river_trt.load(snapshot).policy.tau.tolist() == [np.inf] * 2
