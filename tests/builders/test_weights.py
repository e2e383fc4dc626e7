import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.activations import ACT2FN

from builders.checkpoints import Checkpoint, open_checkpoint
from builders.families import Family, ModelConfig, family_of
from builders.source import ModelSource
from builders.weights import check_names, read_layer, read_shared
from river_trt.errors import CheckpointError, RiverWarning
from tests.builders.tiny_llama import save_tiny_llama


def opened(directory: Path) -> tuple[Checkpoint, Family, ModelConfig]:
    checkpoint = open_checkpoint(str(directory))
    family = family_of(checkpoint.config)
    return checkpoint, family, family.read_config(checkpoint.config)


def edit(directory: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Rewrite model.safetensors; None drops a tensor."""
    file = directory / "model.safetensors"
    tensors = load_file(file) | changes
    save_file({name: t for name, t in tensors.items() if t is not None}, file)


def refuses(directory: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        check_names(*opened(directory))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_is_fused_in_float32(tmp_path: Path, dtype: torch.dtype, bias: bool) -> None:
    model = save_tiny_llama(tmp_path, dtype, attention_bias=bias, mlp_bias=bias)
    checkpoint, family, config = opened(tmp_path)
    check_names(checkpoint, family, config)
    layer = read_layer(checkpoint, family, config, 1)
    theirs = model.model.layers[1]
    attention, mlp = theirs.self_attn, theirs.mlp
    fused = {
        "qkv": (attention.q_proj, attention.k_proj, attention.v_proj),
        "o": (attention.o_proj,),
        "gate_up": (mlp.gate_proj, mlp.up_proj),
        "down": (mlp.down_proj,),
    }
    assert layer.linears.keys() == fused.keys()
    assert layer.biases.keys() == (fused.keys() if bias else set())
    for linear, modules in fused.items():
        weight = layer.linears[linear]
        assert weight.dtype is torch.float32
        assert weight.shape == config.linear_shapes[linear]
        assert torch.equal(weight, torch.cat([m.weight for m in modules]).float())
        if bias:
            assert torch.equal(layer.biases[linear], torch.cat([m.bias for m in modules]).float())
    assert torch.equal(layer.norms["input_norm"], theirs.input_layernorm.weight.float())
    post_attention = theirs.post_attention_layernorm.weight.float()
    assert torch.equal(layer.norms["post_attention_norm"], post_attention)


@pytest.mark.parametrize("tied", [False, True])
def test_shared_weights(tmp_path: Path, tied: bool) -> None:
    model = save_tiny_llama(tmp_path, torch.float16, tie_word_embeddings=tied)
    checkpoint, family, config = opened(tmp_path)
    check_names(checkpoint, family, config)
    shared = read_shared(checkpoint, family, config)
    assert torch.equal(shared.embedding, model.model.embed_tokens.weight)
    assert torch.equal(shared.lm_head, model.lm_head.weight)
    assert (shared.lm_head is shared.embedding) == tied
    assert shared.embedding.dtype is torch.float16
    assert shared.final_norm.dtype is torch.float32


def test_missing_weights_are_named(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path)
    edit(tmp_path, {"model.layers.1.mlp.up_proj.weight": None})
    refuses(tmp_path, "lacks tensor model.layers.1.mlp.up_proj.weight$")


def test_at_most_five_are_named(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path)
    edit(tmp_path, {f"extra.{i}": torch.zeros(1) for i in range(7)})
    refuses(tmp_path, r"unknown 7 tensors extra.0, .*extra.4, \.\.\.$")


def test_untied_model_without_a_head(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path)
    edit(tmp_path, {"lm_head.weight": None})
    refuses(tmp_path, "lacks tensor lm_head.weight")


def test_bias_the_config_does_not_know(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path)
    edit(tmp_path, {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32)})
    refuses(tmp_path, "unknown tensor model.layers.0.self_attn.q_proj.bias")


def test_layer_beyond_the_config(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path)
    edit(tmp_path, {"model.layers.2.input_layernorm.weight": torch.zeros(32)})
    refuses(tmp_path, "model.layers.2.input_layernorm.weight")


def test_rotary_frequencies_are_tolerated(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path)
    edit(tmp_path, {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)})
    check_names(*opened(tmp_path))


def test_another_head_than_the_embedding_is_used_as_transformers_does(tmp_path: Path) -> None:
    save_tiny_llama(tmp_path, tie_word_embeddings=True)
    embedding = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    edit(tmp_path, {"lm_head.weight": embedding.clone()})
    with warnings.catch_warnings():
        warnings.simplefilter("error", RiverWarning)
        assert ModelSource.open(str(tmp_path)).config.tie_embeddings
    edit(tmp_path, {"lm_head.weight": embedding + 1})
    with pytest.warns(RiverWarning, match=r"lm_head.weight differs: the stored one is used"):
        source = ModelSource.open(str(tmp_path))
    their = AutoModelForCausalLM.from_pretrained(tmp_path).lm_head.weight
    assert torch.equal(source.shared().lm_head, their.detach())
    assert torch.equal(their, embedding + 1)


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("-inf"), "infinity")])
@pytest.mark.parametrize(
    "name", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"]
)
def test_what_is_no_number_is_found_when_it_is_read(
    tmp_path: Path, name: str, value: float, kind: str
) -> None:
    save_tiny_llama(tmp_path)
    tensor = load_file(tmp_path / "model.safetensors")[name].clone()
    tensor.view(-1)[3] = value
    edit(tmp_path, {name: tensor})
    source = ModelSource.open(str(tmp_path))
    with pytest.raises(CheckpointError, match=f"{name} holds {kind}"):
        source.layer(1), source.shared()


@pytest.mark.parametrize(("name", "same"), [("swish", "silu"), ("gelu_new", "gelu_pytorch_tanh")])
def test_other_names_of_an_activation(tmp_path: Path, name: str, same: str) -> None:
    save_tiny_llama(tmp_path, hidden_act=name)
    assert ModelSource.open(str(tmp_path)).config.activation == same
    values = torch.linspace(-5, 5, 101)
    torch.testing.assert_close(ACT2FN[name](values), ACT2FN[same](values))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.embed_tokens.weight", (111, 32)),
        ("model.norm.weight", (31,)),
        ("lm_head.weight", (113, 32)),
        ("model.layers.1.self_attn.k_proj.weight", (32, 32)),
        ("model.layers.0.mlp.down_proj.weight", (96, 32)),
        ("model.layers.0.post_attention_layernorm.weight", (32, 1)),
    ],
)
def test_wrong_shape(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    save_tiny_llama(tmp_path)
    edit(tmp_path, {name: torch.zeros(shape)})
    refuses(tmp_path, "has shape .* but config.json asks for")
