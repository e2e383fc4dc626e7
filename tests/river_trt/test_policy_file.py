import json

import numpy as np
import pytest

from river_trt.errors import RiverError
from river_trt.policy_file import PolicyFile
from river_trt.spec import ExitPolicy

TAU = np.array([np.inf, 0.25, -np.inf, np.inf], np.float32)
PINNED = np.array([True, False, False, True])


def saved(directions=None) -> PolicyFile:
    return PolicyFile("tiny", "abc", "found somehow", ExitPolicy(TAU, PINNED, directions))


@pytest.fixture
def directions():
    values = np.zeros((4, 3), np.float32)
    values[1] = 0.1, -0.2, 0.3
    return values


@pytest.mark.parametrize("with_directions", [False, True])
def test_round_trip(tmp_path, directions, with_directions):
    written = saved(directions if with_directions else None)
    written.write(tmp_path / "p.json")
    found = PolicyFile.read(tmp_path / "p.json")
    assert (found.model, found.config_sha256, found.calibration) == ("tiny", "abc", "found somehow")
    np.testing.assert_array_equal(found.policy.tau, TAU)
    np.testing.assert_array_equal(found.policy.pinned, PINNED)
    if with_directions:
        np.testing.assert_array_equal(found.policy.directions, directions)
    else:
        assert found.policy.directions is None
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "river-trt policy 2"}, "is not a policy"),
        ({"extra": 1}, "key 'extra' is unknown"),
        ({"model": None}, "model must be printable text"),
        ({"model": "\ud800"}, "model must be printable text"),
        ({"calibration": "\x1b[2J"}, "calibration must be printable text"),
        ({"tau": [1e60, 0, 0, 0]}, "tau must fit float32"),
        ({"tau": [10**400, 0, 0, 0]}, "too large"),
        ({"directions": [1]}, "has no attribute"),
        ({"tau": ["nan", 0, 0, 0]}, "tau holds NaN"),
        ({"tau": "high"}, "could not convert"),
        ({"pinned": [5]}, "layer 5 is not one of 1..4"),
        ({"pinned": ["1"]}, "layer '1' is not one of 1..4"),
        ({"directions": {"2": [1.0], "3": [1.0, 2.0]}}, "vectors of one length"),
        ({"directions": {"9": [1.0]}}, "layer 9 is not one of 1..4"),
        ({"directions": {"2": [1e39]}}, "finite"),
    ],
)
def test_damaged_file_is_named(tmp_path, directions, change, message):
    path = tmp_path / "p.json"
    saved(directions).write(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RiverError, match=message) as error:
        PolicyFile.read(path)
    assert str(path) in str(error.value)


def test_missing_key_and_no_json(tmp_path):
    path = tmp_path / "p.json"
    saved().write(path)
    document = json.loads(path.read_text())
    del document["pinned"]
    path.write_text(json.dumps(document))
    with pytest.raises(RiverError, match="key 'pinned' is missing"):
        PolicyFile.read(path)
    path.write_text("{")
    with pytest.raises(RiverError, match="is not JSON"):
        PolicyFile.read(path)
    with pytest.raises(RiverError, match="cannot be read"):
        PolicyFile.read(tmp_path / "none.json")


def test_another_model_is_refused(directions):
    saved(directions).check_model("abc", 4, 3)
    with pytest.raises(RiverError, match="calibrated for tiny, another model than this one"):
        saved().check_model("def", 4, 3)
    with pytest.raises(RiverError, match="4 layers and the model 5"):
        saved().check_model("abc", 5, 3)
    with pytest.raises(RiverError, match="not of the hidden size 7"):
        saved(directions).check_model("abc", 4, 7)


def test_a_place_that_cannot_be_written(tmp_path):
    with pytest.raises(RiverError, match="cannot write"):
        saved().write(tmp_path / "none" / "p.json")
