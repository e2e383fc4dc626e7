"""The same engine with every set of kernels that this processor has, chosen by the environment."""

import os
import subprocess
import sys

import numpy as np
import pytest

from builders.build import BuildOptions, build
from tests.builders.tiny_engines import TINY
from tests.builders.tiny_llama import save_tiny_llama

NAMES = ("portable", "avx2", "avx512", "amx")
PROGRAM = """
import sys
import numpy as np
import river_trt
from river_trt.spec import ExitPolicy

ids = np.random.default_rng(0).integers(3, 112, (2, 40))
engine = river_trt.load(sys.argv[1])
pinned = np.zeros(int(sys.argv[3]), bool)
pinned[1] = True
policy = ExitPolicy.all_river(pinned)
np.save(sys.argv[2], engine.forward(ids, policy)[0])
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    save_tiny_llama(folder / "model", **TINY)
    options = BuildOptions(
        str(folder / "model"),
        folder / "engine",
        quantiser="rtn",
        group_size=64,
        backbone_bits=8,
        kv_cache="float16",
        lm_head_bits=8,
        kernels="native",
        river_activation="float32",  # rounded to 8 bits, a last bit may make another code
        calibrate=False,
    )
    build(options)
    return folder / "engine"


def run(engine, kernels, out):
    layers = str(TINY["num_hidden_layers"])
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, str(engine), str(out), layers],
        env=os.environ | {"RIVER_TRT_CPU_KERNELS": kernels},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_every_set_gives_the_same_logits(engine, tmp_path):
    found = {}
    for name in NAMES:
        done = run(engine, name, tmp_path / f"{name}.npy")
        if done.returncode == 0:
            found[name] = np.load(tmp_path / f"{name}.npy")
        else:
            assert f"RIVER_TRT_CPU_KERNELS is '{name}', and this processor has" in done.stderr
    for name, logits in found.items():
        assert np.abs(logits - found["portable"]).max() < 2e-3, name
    assert np.abs(found["portable"]).max() > 1


def test_a_set_that_is_not_there_is_refused_in_a_sentence(engine):
    command = [sys.executable, "-m", "river_trt", "run", str(engine), "--prompt-ids", "5"]
    done = subprocess.run(
        command,
        env=os.environ | {"RIVER_TRT_CPU_KERNELS": "avx3"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: RIVER_TRT_CPU_KERNELS is 'avx3', and this processor has")
    assert done.stderr.count("\n") == 1 and "portable" in done.stderr
