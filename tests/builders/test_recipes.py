"""Recipes: what a file may say, and what its errors name."""

import re

import pytest

from builders.onnxruntime.options import OnnxRuntimeOptions
from builders.recipes import known_recipes, load_recipe
from builders.tensorrt.options import Profile, TensorRTOptions
from river_trt.errors import RiverError

CAPABILITIES = {"a100": "8.0", "h100": "9.0", "h200": "9.0", "l40s": "8.9", "rtx": "8.9"}
MINE = """
backend = "tensorrt"
target = "mine"
quantiser = "rtn"
group_size = 64
symmetric = true
max_seq_len = 4096
[tensorrt]
compute_capability = "9.0"
profiles = [{ name = "decode", batch = [1, 1, 2], seq = [1, 1, 1] }]
"""


def test_every_target_has_a_recipe_that_loads():
    assert set(known_recipes()) == {"cpu", "cuda", *CAPABILITIES}
    assert isinstance(load_recipe("cpu", {}).options, OnnxRuntimeOptions)
    for target, capability in CAPABILITIES.items():
        options = load_recipe(target, {}).options_as(TensorRTOptions)
        assert options.compute_capability == capability
        decode, prefill = options.profiles
        assert decode.seq == decode.logits == (1, 1, 1)
        assert prefill.seq[2] >= 512  # the runtime's prefill chunk


@pytest.fixture
def recipe(tmp_path):
    def write(old: str = "", new: str = "") -> str:
        assert old in MINE
        path = tmp_path / "mine.toml"
        path.write_text(MINE.replace(old, new, 1))
        return str(path)

    return write


def test_a_recipe_of_ones_own(recipe):
    loaded = load_recipe(recipe(), {"network": "portable", "max_seq_len": 128})
    options = loaded.options_as(TensorRTOptions)
    assert (loaded.target, loaded.max_seq_len) == ("mine", 128)
    assert (options.network, options.dtype) == ("portable", "float16")
    assert options.profiles == (Profile("decode", (1, 1, 2), (1, 1, 1)),)


WRONG = {
    "unknown key": ('target = "mine"', 'target = "mine"\nspeed = 3', "unknown key 'speed'"),
    "unknown key of the table": ("[tensorrt]", "[tensorrt]\nfast = 1", "unknown key 'fast'"),
    "unknown key of a profile": ("seq = [1, 1, 1]", "seq = [1, 1, 1], q = 1", "unknown key 'q'"),
    "missing key": ('quantiser = "rtn"', "", "quantiser is missing"),
    "missing key of the table": ('compute_capability = "9.0"', "", "compute_capability is missing"),
    "text for a number": ("4096", '"long"', "max_seq_len must be int, got 'long'"),
    "number for a capability": ('"9.0"', "9.0", "compute_capability must be str, got 9.0"),
    "capability": ('"9.0"', '"sm_90"', "compute_capability 'sm_90' must read like 9.0"),
    "dtype": ("[tensorrt]", '[tensorrt]\ndtype = "int8"', "dtype 'int8' is not offered"),
    "cache type": ("[tensorrt]", '[tensorrt]\nkv_cache = "bfloat16"', "must be the dtype"),
    "float32 plugins": (
        "[tensorrt]",
        '[tensorrt]\ndtype = "float32"\nkv_cache = "float32"',
        "dtype 'float32' is for the portable network",
    ),
    "level": ("[tensorrt]", "[tensorrt]\noptimization_level = 9", "optimization_level 9 is not"),
    "descending profile": ("[1, 1, 2]", "[2, 1, 2]", "batch must be three numbers, least <= best"),
    "short profile": ("[1, 1, 2]", "[1, 2]", "batch must be three numbers"),
    "no profile": (
        'profiles = [{ name = "decode", batch = [1, 1, 2], seq = [1, 1, 1] }]',
        "profiles = []",
        "at least one profile",
    ),
    "TOML": ("[tensorrt]", "[tensorrt", "is not TOML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_recipe_is_named(recipe, case):
    old, new, message = WRONG[case]
    with pytest.raises(RiverError, match=re.escape(message)):
        load_recipe(recipe(old, new), {})


def test_targets_that_are_none(tmp_path):
    with pytest.raises(RiverError, match="target 'abacus' is not offered; choose one of a100, cpu"):
        load_recipe("abacus", {})
    with pytest.raises(RiverError, match="cannot read the recipe .*none.toml"):
        load_recipe(str(tmp_path / "none.toml"), {})
    with pytest.raises(
        RiverError, match="network is an option of tensorrt and tensorrt-rtx, and .*a100"
    ):
        load_recipe("cpu", {"network": "portable"})
