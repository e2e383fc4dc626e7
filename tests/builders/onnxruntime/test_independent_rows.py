"""Rows of a step do not depend on each other, where the manifest says so: to the last bit."""

import numpy as np
import pytest

import river_trt
from builders.build import BuildOptions, build
from river_trt.spec import ExitPolicy
from tests.builders.tiny_engines import TINY, policy
from tests.builders.tiny_llama import save_tiny_llama

LAYERS = 4
IDS = np.random.default_rng(1).integers(3, 112, (8, 7))
MIXED = policy(LAYERS, 0.5)


@pytest.fixture(scope="module", params=[32, 8], ids=["float32 backbone", "int8 backbone"])
def directory(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    save_tiny_llama(folder / "model", **TINY)
    options = BuildOptions(
        str(folder / "model"),
        folder / "engine",
        quantiser="rtn",
        lm_head_bits=8,
        backbone_bits=request.param,
        kernels="native",
    )
    assert build(options).rows_are_independent
    return folder / "engine"


@pytest.mark.parametrize("exits", [ExitPolicy.full_depth(LAYERS), MIXED], ids=["full", "mixed"])
@pytest.mark.parametrize("tokens", [1, 2, 7])
def test_logits_are_those_of_the_row_alone(directory, tokens, exits):
    engine = river_trt.load(directory, max_batch_size=8, threads=2)
    alone = [engine.forward(IDS[row : row + 1, :tokens], exits)[0][0] for row in range(8)]
    for rows in (2, 3, 6, 8):
        together, _ = engine.forward(IDS[:rows, :tokens], exits)
        for row in range(rows):
            np.testing.assert_array_equal(together[row], alone[row])


def test_a_batch_invariant_engine_takes_no_second_row(directory):
    plain = river_trt.load(directory, max_batch_size=2)
    invariant = river_trt.load(directory, max_batch_size=2, batch_invariant=True)
    assert len(invariant.stepper.session.caches[0]) == len(plain.stepper.session.caches[0])


def test_other_kernels_and_heads_do_not_say_so(directory, tmp_path):
    model = str(directory.parent / "model")
    for name, changes in (("a", {"kernels": "onnxruntime"}), ("b", {"lm_head_bits": 32})):
        options = BuildOptions(model, tmp_path / name, quantiser="rtn", **changes)
        manifest = build(options)
        assert not manifest.rows_are_independent
