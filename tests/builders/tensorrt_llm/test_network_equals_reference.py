"""The whole network, constructed over the double and computed with it, against the torch reference.

Every family, one rank and two, requests in flight together: logits and exit layers. Two ranks pad
the MLP (96 columns in groups of 32) and sum up after o and down.
"""

import dataclasses
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from river_trt.spec import ExitPolicy
from tests.builders.families.tiny_models import TINY_MODELS, save_tiny_model
from tests.builders.tensorrt_llm.conversions import convert, reference
from tests.builders.tensorrt_llm.double.install import installed
from tests.builders.tensorrt_llm.stepping import (
    TEXTS,
    assert_equal,
    decode,
    expected,
    load_models,
    middle_policy,
    run_texts,
)
from tests.builders.tiny_engines import forced_exit, policy

VOCAB = 112


@pytest.fixture(scope="module", params=TINY_MODELS)
def family(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    model = save_tiny_model(directory / "model", TINY_MODELS[request.param])
    model.half().float().save_pretrained(directory / "model")  # numbers that float16 holds
    return directory, reference(directory / "model")


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_gate_that_parts_the_tokens(family, ranks, tmp_path):
    directory, decoder = family
    chosen = middle_policy(decoder)
    checkpoint = convert(directory / "model", tmp_path / "checkpoint", ranks, chosen)
    _, *got = decode(checkpoint)
    exits = assert_equal(got, expected(decoder, chosen), VOCAB)
    assert len(set(exits.tolist())) > 1, "all tokens exited at one layer: nothing was tested"


def test_an_exit_at_the_first_layer_with_a_pinned_one(family, tmp_path):
    directory, decoder = family
    chosen = forced_exit(decoder.config.num_layers, 1, pinned=(2,))
    checkpoint = convert(directory / "model", tmp_path / "checkpoint", 2, chosen)
    _, *got = decode(checkpoint)
    assert_equal(got, expected(decoder, chosen), VOCAB)


def test_the_direction_gate(tmp_path):
    save_tiny_model(tmp_path / "model", TINY_MODELS["llama"]).half().float().save_pretrained(
        tmp_path / "model"
    )
    decoder = reference(tmp_path / "model")
    layers, hidden = decoder.config.num_layers, decoder.config.hidden_size
    directions = np.random.default_rng(0).standard_normal((layers, hidden)).astype(np.float32)
    chosen = policy(layers, 0.0, directions=directions)
    checkpoint = convert(tmp_path / "model", tmp_path / "checkpoint", 1, chosen)
    _, *got = decode(checkpoint)
    exits = assert_equal(got, expected(decoder, chosen), VOCAB)
    assert len(set(exits.tolist())) > 1


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_symmetric_river_has_no_zero_points(symmetric, tmp_path):
    save_tiny_model(tmp_path / "model", TINY_MODELS["qwen2"])
    decoder = reference(tmp_path / "model", symmetric=symmetric)
    chosen = forced_exit(decoder.config.num_layers, 1)
    options = {"ranks": 2, "policy": chosen, "symmetric": symmetric}
    _, *got = decode(convert(tmp_path / "model", tmp_path / "checkpoint", **options))
    assert_equal(got, expected(decoder, chosen), VOCAB)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_an_input_scaling_of_the_river_is_split_with_its_columns(family, tmp_path):
    """AWQ's pre_scale; Llama's biases keep that of down, which is folded into up elsewhere."""
    save_tiny_model(tmp_path / "model", TINY_MODELS[family])
    decoder = reference(tmp_path / "model", quantiser="awq")
    chosen = forced_exit(decoder.config.num_layers, 1)
    options = {"ranks": 2, "policy": chosen, "quantiser": "awq"}
    networks, *got = decode(convert(tmp_path / "model", tmp_path / "checkpoint", **options))
    assert_equal(got, expected(decoder, chosen), VOCAB)
    scaled = [e.name for e in networks[0].events if e.fields.get("pre_scale")]
    assert ("layers.2.down" in scaled) == (family == "llama") and "layers.2.o" in scaled


@pytest.mark.parametrize("chunk", [4, 8])
def test_a_prompt_may_come_in_chunks(tmp_path, chunk):
    """Chunks of 4 and 4 and 1, or 8 and 1, beside a request that generates: nothing exits early."""
    save_tiny_model(tmp_path / "model", TINY_MODELS["llama"])
    decoder = reference(tmp_path / "model")
    chosen = forced_exit(decoder.config.num_layers, 1)
    checkpoint = convert(tmp_path / "model", tmp_path / "checkpoint", 1, chosen)
    texts = (TEXTS[1], dataclasses.replace(TEXTS[0], chunk=chunk))
    _, *got = decode(checkpoint, texts)
    exits = assert_equal(got, expected(decoder, chosen, texts), VOCAB)
    assert set(exits.tolist()) == {1, decoder.config.num_layers}


def test_after_a_prompt_of_one_token_the_backbone_runs(tmp_path):
    """It cannot be told from a last chunk of one token: the safe side is the exact one."""
    save_tiny_model(tmp_path / "model", TINY_MODELS["llama"])
    decoder = reference(tmp_path / "model")
    chosen = forced_exit(decoder.config.num_layers, 1)
    checkpoint = convert(tmp_path / "model", tmp_path / "checkpoint", 1, chosen)
    texts = (dataclasses.replace(TEXTS[1], prompt=1),)
    _, *got = decode(checkpoint, texts)
    full = ExitPolicy.full_depth(decoder.config.num_layers)
    assert_equal(got, expected(decoder, full, texts), VOCAB)


def test_full_depth_is_the_plain_model(tmp_path):
    save_tiny_model(tmp_path / "model", TINY_MODELS["llama"])
    decoder = reference(tmp_path / "model")
    chosen = ExitPolicy.full_depth(decoder.config.num_layers)
    _, *got = decode(convert(tmp_path / "model", tmp_path / "checkpoint", 1, chosen))
    assert_equal(got, expected(decoder, chosen), VOCAB)


# --- mutants: wrong numbers that fit every shape ---


def swap_layers(tensors, model):
    one, two = (f"transformer.layers.{layer}.attention.qkv.qweight" for layer in (1, 2))
    tensors[one], tensors[two] = tensors[two].clone(), tensors[one].clone()


def swap_k_and_v(tensors, model):
    name = "transformer.layers.1.attention.qkv.weight"
    q, k, v = tensors[name].split([64, 32, 32])
    tensors[name] = torch.cat([q, v, k])


def invert_flags(tensors, model):
    gate = model.transformer.exit_policy.gate

    def inverted(*arguments):
        h, state = gate(*arguments)
        flag = None if state.use_river is None else 1 - state.use_river
        return h, dataclasses.replace(state, use_river=flag)

    model.transformer.exit_policy.gate = inverted


def give_the_gate_another_input(tensors, model):
    gate = model.transformer.exit_policy.gate
    model.transformer.exit_policy.gate = lambda layer, h_in, residual, *rest: gate(
        layer, residual, residual, *rest
    )


def let_prompts_exit(tensors, model):
    module = sys.modules["builders.tensorrt_llm.model"]
    true = module.generated_tokens
    module.generated_tokens = lambda *inputs: true(*inputs) * 0 + 1


def rotate_by_another_layout(tensors, model):
    module = sys.modules["builders.tensorrt_llm.model"]
    true = module.make_rotary

    def halves(inv_freq, positions):
        rotary = true(inv_freq, positions)
        pairs = rotary.cos_sin.value.view(positions, -1, 2)
        rotary.cos_sin.value = pairs.transpose(1, 2).reshape(1, -1)
        return rotary

    module.make_rotary = halves


MUTANTS = [
    swap_layers,
    swap_k_and_v,
    invert_flags,
    give_the_gate_another_input,
    let_prompts_exit,
    rotate_by_another_layout,
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    directory = tmp_path_factory.mktemp("mutants")
    model = save_tiny_model(directory / "model", TINY_MODELS["llama"])
    model.half().float().save_pretrained(directory / "model")
    decoder = reference(directory / "model")
    chosen = middle_policy(decoder)
    return convert(directory / "model", directory / "checkpoint", 1, chosen), expected(
        decoder, chosen
    )


@pytest.mark.parametrize("mutant", [None, *MUTANTS])
def test_a_wrong_network_computes_something_else(llama, mutant):
    checkpoint, wanted = llama
    with installed():
        (model,) = load_models(checkpoint)
        if mutant is not None:
            tensors = load_file(checkpoint / "rank0.safetensors")
            mutant(tensors, model)
            model.load(tensors)
        _, *got = run_texts([model])
    if mutant is None:
        assert_equal(got, wanted, VOCAB)
    else:
        with pytest.raises(AssertionError):
            assert_equal(got, wanted, VOCAB)
