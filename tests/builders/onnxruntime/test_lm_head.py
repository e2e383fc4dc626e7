"""The LM head at each width, of a model that scales its embedding and caps its logits."""

import dataclasses

import numpy as np
import pytest
import torch

import river_trt
from builders.build import BuildOptions, build
from builders.quantisers import make_quantiser
from builders.quantisers.integer import quantise_integer
from builders.reference import teacher_forced
from builders.river_bank import load_decoder, river_format
from builders.source import ModelSource
from tests.builders.families.tiny_models import TINY_MODELS, save_tiny_model
from tests.builders.tiny_engines import forced_exit

IDS = np.random.default_rng(0).integers(3, 112, (2, 9))
GROUP, LAYERS = 32, 2


@pytest.mark.parametrize(
    ("bits", "tied"), [(4, False), (8, True), (16, True), (16, False), (32, True)]
)
def test_head_of_a_bfloat16_gemma(tmp_path, bits, tied):
    gemma = TINY_MODELS["gemma2"]
    changes = {"tie_word_embeddings": tied, "num_hidden_layers": LAYERS}
    tiny = dataclasses.replace(gemma, config=gemma.config | changes)
    model = save_tiny_model(tmp_path / "model", tiny).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    options = BuildOptions(
        str(tmp_path / "model"),
        tmp_path / "engine",
        quantiser="rtn",
        group_size=GROUP,
        river_activation="float32",
        lm_head_bits=bits,
    )
    build(options)
    source = ModelSource.open(str(tmp_path / "model"))
    head = source.shared().lm_head
    if bits < 16:
        head = quantise_integer(head, bits, GROUP).dequantise(head.shape[1])
    quantiser = make_quantiser("rtn", GROUP, False)
    river = river_format(source.config, quantiser, GROUP, False)
    reference = load_decoder(source, quantiser, river, IDS.shape[1], lm_head=head.float())
    policy = forced_exit(LAYERS, 1)
    expected, _ = teacher_forced(reference, IDS, policy)
    logits, _ = river_trt.load(tmp_path / "engine").forward(IDS, policy)
    np.testing.assert_allclose(logits, expected, atol=2e-3, rtol=0)
    cap = source.config.final_softcap
    assert np.abs(logits).max() < cap
    assert np.abs(logits).max() > 0.5 * cap, "the cap must bend the logits"
