"""The rewritten program against the torch reference, not compiled: every family, both devices."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from builders.aotinductor.cpu import CpuDevice
from builders.aotinductor.program import rewrite
from builders.position_tables import position_tables
from builders.quantisers import make_quantiser
from builders.reference import teacher_forced
from builders.river_bank import load_decoder, river_format, stream_layers
from builders.source import ModelSource
from builders.tracing import trace
from river_trt.backends.base import SessionOptions, Step
from river_trt.backends.torch.fakes import register_fakes
from river_trt.backends.torch.operators import load_operators
from river_trt.backends.torch.session import TorchSession
from river_trt.spec import ExitPolicy, ModelShape
from scripts.research.eager import runner
from tests.builders.families.tiny_models import TINY_MODELS, save_tiny_model
from tests.builders.tiny_engines import TINY, forced_exit, policy
from tests.builders.tiny_llama import save_tiny_llama
from tests.plugins import native

IDS = np.random.default_rng(0).integers(3, 112, (2, 16))
MAX_SEQ_LEN, GROUP_SIZE, CHUNK = 64, 32, 5


@pytest.fixture(scope="module", autouse=True)
def operators():
    load_operators("cpu")
    register_fakes("cpu")


@pytest.mark.parametrize("family", TINY_MODELS)
def test_every_family_equals_the_reference(family, tmp_path):
    """In chunks over a filled cache, with every bank, from caches written in place."""
    save_tiny_model(tmp_path, TINY_MODELS[family])
    source = ModelSource.open(str(tmp_path))
    config, layers = source.config, source.config.num_layers
    quantiser = make_quantiser("rtn", GROUP_SIZE, False)
    river = river_format(config, quantiser, GROUP_SIZE, False)
    device = CpuDevice("both", False, 32, GROUP_SIZE, source.shared().embedding.dtype)
    program = rewrite(trace(config, river, MAX_SEQ_LEN), device)
    tensors = position_tables(config, MAX_SEQ_LEN) | device.shared_tensors(source.shared())
    for index, banks in enumerate(stream_layers(source, quantiser, source.shared())):
        tensors |= device.layer_tensors(index, banks)
    session = TorchSession(
        runner(program, tensors),
        tensors,
        ModelShape(
            *(layers, config.hidden_size, config.num_heads, config.num_kv_heads, config.head_dim),
            *(config.vocab_size, MAX_SEQ_LEN),
        ),
        SessionOptions(len(IDS), MAX_SEQ_LEN),
        torch.device("cpu"),
        torch.float32,
    )
    reference = load_decoder(source, quantiser, river, MAX_SEQ_LEN)
    for chosen in (ExitPolicy.full_depth(layers), forced_exit(layers, 1), policy(layers, 0.4)):
        logits, exit_layer = teacher_forced(reference, IDS, chosen)
        for start in range(0, IDS.shape[1], CHUNK):
            part = IDS[:, start : start + CHUNK]
            step = session.step(Step.whole(part, chosen, past_length=start))
            columns = slice(start, start + CHUNK)
            np.testing.assert_array_equal(step.exit_layer, exit_layer[:, columns])
            np.testing.assert_allclose(step.logits, logits[:, columns], atol=2e-3, rtol=0)


def test_the_gpus_program_over_the_kernels_shim(tmp_path):
    """Its fused operators, bfloat16, and one recording of a decode step for all depths."""
    library = native.build("river_shim_torch") / "tests/torch/libriver_shim_torch.so"
    save_tiny_llama(tmp_path, **TINY)
    script = Path(__file__).with_name("cuda_program.py")
    done = subprocess.run(
        [sys.executable, script, library, tmp_path], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "same\n"
