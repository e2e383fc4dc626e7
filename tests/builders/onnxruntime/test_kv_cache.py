"""A float16 KV cache: equal to the reference within what its rounding costs, in half the bytes."""

import numpy as np
import pytest

import river_trt
from builders.build import BuildOptions, build
from river_trt.cli.inspect import facts
from river_trt.engine_files import read_manifest
from river_trt.errors import EngineError, RiverError
from river_trt.spec import ExitPolicy
from tests.builders.tiny_engines import TINY, forced_exit, pair_of, policy
from tests.builders.tiny_llama import save_tiny_llama

LAYERS = 4
TOLERANCE = 5e-2  # of `verify` for float16
LONG = TINY | {"max_position_embeddings": 512}  # several parts of keys (plugins/cpu/block.cc)
IDS = np.random.default_rng(0).integers(3, 112, (3, 24))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("float16")
    return pair_of(folder, save_tiny_llama(folder / "model", **LONG).eval(), kv_cache="float16")


def test_equals_the_reference(pair):
    pair.assert_equal(IDS, ExitPolicy.full_depth(LAYERS), tolerance=TOLERANCE)
    for layer in range(1, LAYERS + 1):
        pair.assert_equal(IDS, forced_exit(LAYERS, layer), tolerance=TOLERANCE)


def test_a_token_after_many_equals_the_same_token_in_one_pass(pair):
    """Chunks, parts of the keys and single tokens: to the bit, whatever they were cut into."""
    ids, exits = np.random.default_rng(2).integers(3, 112, (1, 300)), policy(LAYERS, 0.5)
    pair.engine.forward(ids, exits)
    whole = pair.engine.read_cache(0, 300)
    for cuts in ((299,), (1, 2, 64, 129), (5, 6, 7, 8, 250, 257)):
        begin = 0
        for end in (*cuts, 300):
            pair.engine.forward(ids[:, begin:end], exits, past_length=begin)
            begin = end
        np.testing.assert_array_equal(pair.engine.read_cache(0, 300), whole)


def test_what_the_cache_holds_is_read_as_float32(pair):
    pair.engine.forward(IDS[:1], ExitPolicy.full_depth(LAYERS))
    cache = pair.engine.read_cache(0, IDS.shape[1])
    assert cache.dtype == np.float32
    np.testing.assert_array_equal(cache, cache.astype(np.float16).astype(np.float32))
    assert all(held.dtype == np.float16 for held in pair.engine.stepper.session.caches)


def test_lossless_gives_the_backbones_text(pair):
    config = river_trt.GenerationConfig(max_new_tokens=30, mode="full", ignore_eos=True)
    (plain,) = pair.engine.generate([IDS[0].tolist()], config)
    lossless = river_trt.GenerationConfig(max_new_tokens=30, mode="lossless", ignore_eos=True)
    (drafted,) = pair.engine.generate([IDS[0].tolist()], lossless)
    assert drafted.token_ids == plain.token_ids


def test_hidden_states_and_facts(pair):
    assert pair.engine.stepper.hidden_states(IDS[0]).shape == (LAYERS, 24, 64)
    manifest = read_manifest(pair.directory)
    assert manifest.precision.kv_cache == "float16"
    assert any("float16" in text for _, text in facts(manifest))


def test_onnxruntimes_own_kernels_refuse_it(tmp_path):
    save_tiny_llama(tmp_path / "model", **TINY)
    options = BuildOptions(
        str(tmp_path / "model"), tmp_path / "engine", kernels="onnxruntime", kv_cache="float16"
    )
    with pytest.raises(RiverError, match="--kv-cache float16 needs the native kernels"):
        build(options)
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("head_dim", [8, 24])
def test_heads_of_every_multiple_of_8(tmp_path, head_dim):
    model = save_tiny_llama(tmp_path / "model", **(TINY | {"head_dim": head_dim})).eval()
    pair_of(tmp_path, model).assert_equal(IDS, forced_exit(LAYERS, 2))


def test_onnxruntimes_own_kernels_refuse_narrow_heads(tmp_path):
    save_tiny_llama(tmp_path / "model", **(TINY | {"head_dim": 8}))
    options = BuildOptions(str(tmp_path / "model"), tmp_path / "engine", kernels="onnxruntime")
    with pytest.raises(RiverError, match="head_dim of 8, but ONNX Runtime's attention takes"):
        build(options)
    assert not (tmp_path / "engine").exists()


def test_a_manifest_of_another_cache_is_refused(pair, tmp_path):
    manifest = (pair.directory / "manifest.json").read_text()
    for file in pair.directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "manifest.json").write_text(manifest.replace('"float16"', '"bfloat16"'))
    with pytest.raises(EngineError, match=r"kv_cache is 'bfloat16', .* 'float32' or 'float16'"):
        river_trt.load(tmp_path)
