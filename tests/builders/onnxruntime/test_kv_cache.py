"""KV caches of fewer bits: equal to the reference within what their rounding costs."""

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
# Of logits up to 5.9. float16: of `verify`. int8 differs by 0.37, and more where others round.
TOLERANCES = {"float16": 5e-2, "int8": 0.6}
BYTES = {"float16": 2 * 16, "int8": 16 + 4}  # a key or a value of one head
LONG = TINY | {"max_position_embeddings": 512}  # several parts of keys (plugins/cpu/block.cc)
IDS = np.random.default_rng(0).integers(3, 112, (3, 24))


@pytest.fixture(scope="module", params=TOLERANCES)
def pair(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("kv")
    model = save_tiny_llama(folder / "model", **LONG).eval()
    return pair_of(folder, model, kv_cache=request.param)


def held(pair):
    return pair.engine.manifest.precision.kv_cache


def test_equals_the_reference(pair):
    tolerance = TOLERANCES[held(pair)]
    pair.assert_equal(IDS, ExitPolicy.full_depth(LAYERS), tolerance=tolerance)
    for layer in range(1, LAYERS + 1):
        pair.assert_equal(IDS, forced_exit(LAYERS, layer), tolerance=tolerance)


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
    if held(pair) == "float16":
        np.testing.assert_array_equal(cache, cache.astype(np.float16).astype(np.float32))
    else:  # its largest value is code 127, and all others are whole codes
        codes = cache / (np.abs(cache).max(axis=-1, keepdims=True) / 127)
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
    for slots in pair.engine.stepper.session.caches:
        assert slots[0, 0, 0].nbytes == BYTES[held(pair)]


def test_lossless_gives_the_backbones_text(pair):
    config = river_trt.GenerationConfig(max_new_tokens=30, mode="full", ignore_eos=True)
    (plain,) = pair.engine.generate([IDS[0].tolist()], config)
    lossless = river_trt.GenerationConfig(max_new_tokens=30, mode="lossless", ignore_eos=True)
    (drafted,) = pair.engine.generate([IDS[0].tolist()], lossless)
    assert drafted.token_ids == plain.token_ids


def test_hidden_states_and_facts(pair):
    assert pair.engine.stepper.hidden_states(IDS[0]).shape == (LAYERS, 24, 64)
    manifest = read_manifest(pair.directory)
    slot = 2 * LAYERS * manifest.model.shape.num_kv_heads * BYTES[held(pair)]
    (text,) = (text for name, text in facts(manifest) if name == "KV cache")
    assert text.startswith(f"{held(pair)}, {slot} B a token")


@pytest.mark.parametrize("kv_cache", TOLERANCES)
def test_onnxruntimes_own_kernels_refuse_it(tmp_path, kv_cache):
    save_tiny_llama(tmp_path / "model", **TINY)
    options = BuildOptions(
        str(tmp_path / "model"), tmp_path / "engine", kernels="onnxruntime", kv_cache=kv_cache
    )
    with pytest.raises(RiverError, match=f"--kv-cache {kv_cache} needs the native kernels"):
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
    (tmp_path / "manifest.json").write_text(
        manifest.replace(f'"kv_cache": "{held(pair)}"', '"kv_cache": "bfloat16"')
    )
    with pytest.raises(EngineError, match=r"kv_cache is 'bfloat16', .* 'float16' or 'int8'"):
        river_trt.load(tmp_path)
