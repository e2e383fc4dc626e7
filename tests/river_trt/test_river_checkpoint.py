"""The contract of a River checkpoint: what is written is read, what is damaged is named."""

import json
import math

import pytest
from safetensors import safe_open

from river_trt.errors import CheckpointError
from river_trt.river_checkpoint import SECTION, WEIGHTS_FILE, RiverCheckpoint
from tests.builders.families.tiny_models import TINY_MODELS, save_tiny_model
from tests.river_trt.vllm.models import convert
from tests.river_trt.vllm.test_sharding import CHECKPOINT

TYPES = {"float32": "F32", "uint8": "U8"}


@pytest.fixture(scope="module", params=["qwen2", "gemma3"])
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny_model(folder / "model", TINY_MODELS[request.param])
    return convert(folder / "model", folder / "river")


def test_the_file_holds_what_config_json_says(written):
    config = json.loads((written / "config.json").read_text())
    assert config["architectures"] == ["RiverForCausalLM"]
    described = RiverCheckpoint.from_config(config[SECTION], "it")
    wanted = {n: (TYPES[t], list(shape)) for n, (t, shape) in described.tensors("float32").items()}
    with safe_open(written / WEIGHTS_FILE, "pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no dictionary)
        found = {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}
    assert found == wanted


def test_it_survives_json():
    text = json.dumps(CHECKPOINT.to_dict(), allow_nan=False)
    assert RiverCheckpoint.from_config(json.loads(text), "it") == CHECKPOINT


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": 2}, "reads format 1: upgrade river-trt"),
        ({"format": None}, "has format None"),
        ({"head_dim": -1}, r"damaged \(head_dim is -1\)"),
        ({"tau": [0.9]}, "tau has 1 values for 2 layers"),
        ({"tau": [math.nan, 1.0]}, "tau has 2 values"),
        ({"tau": ["deep", 1.0]}, "could not convert"),
        ({"pinned": [3]}, r"pinned is \[3\] for 2 layers"),
        ({"ropes": [{"inv_freq": 3}]}, "damaged"),
        ({"layers": [{"rope": 4, "window": None}] * 2}, "rope 4"),
        ({"surprise": 1}, "key river.surprise is unknown"),
    ],
)
def test_a_damaged_section_is_named(changes, sentence):
    with pytest.raises(CheckpointError, match=sentence):
        RiverCheckpoint.from_config(CHECKPOINT.to_dict() | changes, "it")


def test_a_plain_checkpoint_and_a_missing_key_are_named():
    with pytest.raises(CheckpointError, match="it is a plain checkpoint without a river"):
        RiverCheckpoint.from_config(None, "it")
    values = CHECKPOINT.to_dict()
    del values["symmetric"]
    with pytest.raises(CheckpointError, match=r"key river\.symmetric is missing"):
        RiverCheckpoint.from_config(values, "it")
