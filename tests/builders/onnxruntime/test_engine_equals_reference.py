"""The ONNX Runtime engine against RiverDecoder and transformers, on tiny random Llamas."""

import numpy as np
import pytest
import torch

import river_trt
from river_trt.backends.base import Step
from river_trt.spec import ExitPolicy
from tests.builders.tiny_engines import LLAMA3_ROPE, Pair, build_pair, forced_exit, policy

LAYERS = 4
RNG = np.random.default_rng(0)
IDS = RNG.integers(3, 112, (3, 24))
DIRECTIONS = RNG.standard_normal((LAYERS, 64)).astype(np.float32)


KERNELS = ["native", "onnxruntime"]


@pytest.fixture(scope="module", params=KERNELS)
def pair(request, tmp_path_factory) -> Pair:
    return build_pair(tmp_path_factory.mktemp("plain"), kernels=request.param)


# What a linear may look like, each with a last group that is part filled where K is 96 or 64.
VARIANTS = {
    "symmetric": {"symmetric": True},
    "group 128": {"group_size": 128},
    "hqq group 64": {"quantiser": "hqq", "group_size": 64},
    "awq": {"quantiser": "awq"},
    "awq, biases": {"quantiser": "awq", "attention_bias": True, "mlp_bias": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "llama-3 rope": {"rope_parameters": LLAMA3_ROPE},
    "sizes that fill no panel": {"intermediate_size": 100, "hidden_size": 72, "head_dim": 16},
    "untied": {"tie_word_embeddings": False},
    "tied": {"tie_word_embeddings": True},
    "one layer": {"num_hidden_layers": 1},
    "no grouped heads": {"num_key_value_heads": 4},
}


@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", VARIANTS)
def test_variants_of_the_model(name, kernels, tmp_path):
    pair = build_pair(tmp_path, kernels=kernels, **VARIANTS[name])
    layers = pair.engine.num_layers
    with torch.inference_mode():
        logits = pair.hf(torch.from_numpy(IDS)).logits.numpy()
    engine_logits, _ = pair.engine.forward(IDS, ExitPolicy.full_depth(layers))
    np.testing.assert_allclose(engine_logits, logits, atol=1e-3, rtol=0)
    for layer in range(1, layers + 1):
        pair.assert_equal(IDS, forced_exit(layers, layer))
    pair.assert_equal(IDS, policy(layers, 0.5))


@pytest.mark.parametrize("pinned", [(), (LAYERS,), (2, 3), (1, 2, 3, 4)])
@pytest.mark.parametrize("layer", range(1, LAYERS + 1))
def test_forced_exit_at_every_layer(pair, layer, pinned):
    exit_layer = pair.assert_equal(IDS, forced_exit(LAYERS, layer, pinned))
    assert (exit_layer == layer).all()


@pytest.mark.parametrize("scope", ["token", "sequence", "batch"])
@pytest.mark.parametrize("directions", [None, DIRECTIONS], ids=["similarity", "direction"])
@pytest.mark.parametrize("pinned", [(), (LAYERS,), (2,)])
def test_gate_decides_alike(pair, scope, directions, pinned):
    """Thresholds that split the tokens: some exit at each layer, some never."""
    tau = [0.4, 0.5, 0.6, 0.5] if directions is None else [0.05, 0.1, 0.1, 0.1]
    exit_layer = pair.assert_equal(IDS, policy(LAYERS, tau, pinned, directions), scope)
    if scope == "token":
        assert len(np.unique(exit_layer)) > 1, "the thresholds must split the tokens"
    if scope == "sequence":
        assert (exit_layer == exit_layer[:, :1]).all()
    if scope == "batch":
        assert (exit_layer == exit_layer[0, 0]).all()


def test_river_bank_is_really_used(pair):
    """All river differs from full depth, or the tests above would prove nothing."""
    full, _ = pair.engine.forward(IDS, ExitPolicy.full_depth(LAYERS))
    river, _ = pair.engine.forward(IDS, forced_exit(LAYERS, 1))
    pinned, _ = pair.engine.forward(IDS, forced_exit(LAYERS, 1, (1, 2, 3, 4)))
    assert np.abs(full - river).max() > 0.05
    np.testing.assert_allclose(pinned, full, atol=1e-4, rtol=0)


@pytest.mark.parametrize("tau", [np.inf, 0.4, 0.6, -np.inf])
def test_a_row_of_a_batch_equals_that_row_alone(pair, tau):
    chosen = policy(LAYERS, tau, (3,))
    logits, exit_layer = pair.engine.forward(IDS, chosen)
    for row in range(len(IDS)):
        alone, alone_exit_layer = pair.engine.forward(IDS[row : row + 1], chosen)
        np.testing.assert_array_equal(exit_layer[row], alone_exit_layer[0])
        np.testing.assert_allclose(logits[row], alone[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("chunk", [1, 5, 24])
@pytest.mark.parametrize("tau", [np.inf, 0.45, -np.inf])
def test_chunks_over_a_filled_cache_equal_one_pass(pair, chunk, tau):
    """Token by token, and several tokens a step, give what the parallel pass gives."""
    chosen = policy(LAYERS, tau)
    logits, exit_layer = pair.engine.forward(IDS, chosen)
    session = pair.engine.stepper.session
    # ONNX Runtime takes several tokens over a filled cache for one row at a time.
    groups = (
        [slice(0, len(IDS))] if chunk == 1 else [slice(row, row + 1) for row in range(len(IDS))]
    )
    for rows in groups:
        for start in range(0, IDS.shape[1], chunk):
            part = IDS[rows, start : start + chunk]
            step = session.step(Step.whole(part, chosen, first_row=rows.start, past_length=start))
            columns = slice(start, start + chunk)
            np.testing.assert_array_equal(step.exit_layer, exit_layer[rows, columns])
            np.testing.assert_allclose(step.logits, logits[rows, columns], atol=1e-4, rtol=0)


@pytest.mark.parametrize("tau", [np.inf, 0.45, -np.inf])
def test_ragged_batch_generates_what_each_prompt_does_alone(pair, tau):
    prompts = [IDS[0, :3].tolist(), IDS[1, :17].tolist(), IDS[2, :9].tolist(), IDS[0, 5:6].tolist()]
    config = river_trt.GenerationConfig(max_new_tokens=20, tau=tau, ignore_eos=True)
    together = pair.engine.generate(prompts, config)
    for prompt, result in zip(prompts, together, strict=True):
        (alone,) = pair.engine.generate([prompt], config)
        assert result.token_ids == alone.token_ids
        assert list(result.exit_layers) == list(alone.exit_layers)


def test_full_depth_text_equals_transformers(pair):
    config = river_trt.GenerationConfig(max_new_tokens=40, tau=np.inf, ignore_eos=True)
    for row in IDS:
        (result,) = pair.engine.generate([row.tolist()], config)
        ids = torch.from_numpy(row[None])
        expected = pair.hf.generate(
            ids, max_new_tokens=40, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        assert result.token_ids == expected[0, len(row) :].tolist()
