import dataclasses
import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from builders.checkpoints import Checkpoint, open_checkpoint
from builders.checkpoints.demo import PACKAGE
from builders.families import family_of
from builders.weights import check_names
from river_trt.errors import CheckpointError
from river_trt.manifest import TextInfo
from tests.builders.tiny_llama import SIZES, tiny_llama

GEMMA3 = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 16, "rms_norm_eps": 1e-6}
PHI3 = {"pad_token_id": None, "sliding_window": 16, "rms_norm_eps": 1e-6}
WINDOWS = {"gemma3": 16, "phi3": 16}
MODELS = {
    "llama": lambda: tiny_llama(),
    "qwen2": lambda: random_model(Qwen2ForCausalLM(Qwen2Config(**SIZES))),
    "qwen3": lambda: random_model(Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8))),
    "gemma3": lambda: random_model(Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **GEMMA3))),
    "phi3": lambda: random_model(Phi3ForCausalLM(Phi3Config(**SIZES, **PHI3))),
}
demo_only = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None, reason="the demo extra is not installed"
)


def interleave(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """llama.cpp's converter: the order in which it keeps the rows of q and k."""
    halves = weight.reshape(num_heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def random_model(model: PreTrainedModel) -> PreTrainedModel:
    """Norms and biases too."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def write_gguf(
    file: Path,
    architecture: str = "llama",
    rope_factors: np.ndarray | None = None,
    stored: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    more: dict[str, np.ndarray] | None = None,
    **metadata: str | float,
) -> dict[str, torch.Tensor]:
    """A tiny model as llama.cpp's converter writes it; returns the Hugging Face weights."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_vocab_size(SIZES["vocab_size"])
    writer.add_context_length(SIZES["max_position_embeddings"])
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(SIZES["num_attention_heads"])
    writer.add_head_count_kv(SIZES["num_key_value_heads"])
    writer.add_rope_dimension_count(8)
    writer.add_key_length(8)
    writer.add_rope_freq_base(1e6 if architecture == "gemma3" else 1e4)
    writer.add_layer_norm_rms_eps(1e-6)
    if architecture in WINDOWS:
        writer.add_sliding_window(WINDOWS[architecture])
    for key, value in metadata.items():
        name = f"{architecture}.{'' if '.' in key else 'rope.scaling.'}{key}"
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        else:
            writer.add_float32(name, value)
    written = architecture if architecture in MODELS else "llama"
    weights = MODELS[written]().state_dict()
    known = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(known[written], SIZES["num_hidden_layers"])
    for name, tensor in weights.items():
        module, kind = name.rsplit(".", 1)
        values = tensor.numpy()
        if architecture == "llama" and module.endswith("q_proj"):
            values = interleave(values, SIZES["num_attention_heads"])
        elif architecture == "llama" and module.endswith("k_proj"):
            values = interleave(values, SIZES["num_key_value_heads"])
        if architecture == "gemma3" and values.ndim == 1:
            values = values + 1  # llama.cpp multiplies by what is stored
        if name == "lm_head.weight" and architecture == "gemma3":
            continue  # tied
        kept = stored if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        values = gguf.quants.quantize(np.ascontiguousarray(values), kept)
        writer.add_tensor(f"{names.get_name(module)}.{kind}", values, raw_dtype=kept)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", rope_factors.astype(np.float32))
    for name, values in (more or {}).items():
        writer.add_tensor(f"{name}.weight", values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return weights


def inv_freq(checkpoint: Checkpoint) -> np.ndarray:
    (rope,) = family_of(checkpoint.config).read_config(checkpoint.config).ropes
    return np.array(rope.inv_freq)


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("stored", ["F32", "F16", "BF16"])
def test_weights_config_and_names(tmp_path: Path, stored: str, architecture: str) -> None:
    kind = gguf.GGMLQuantizationType[stored]
    weights = write_gguf(tmp_path / "tiny.gguf", architecture, stored=kind)
    checkpoint = open_checkpoint(str(tmp_path / "tiny.gguf"))
    family = family_of(checkpoint.config)
    config = family.read_config(checkpoint.config)
    check_names(checkpoint, family, config)
    assert config.tie_embeddings == (architecture == "gemma3")
    assert config.vocab_size == 112 and config.num_kv_heads == 2
    assert checkpoint.name == "tiny"
    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    assert checkpoint.dtype is dtypes[stored]
    for name in checkpoint.tensor_names:
        expected, found = weights[name], checkpoint.tensor(name)
        if expected.ndim == 2:
            assert torch.equal(found, expected.to(checkpoint.dtype)), name
        else:  # Gemma's have had the one added and taken away
            torch.testing.assert_close(found, expected, atol=2e-7, rtol=0)
    assert not checkpoint.write_tokenizer(tmp_path) and checkpoint.text_info() == TextInfo()
    theirs = family.read_config(MODELS[architecture]().config.to_dict())
    nothing = {"bos_token_id": None, "eos_token_ids": ()}  # the file has no tokenizer
    assert config.norm_eps == pytest.approx(theirs.norm_eps)  # stored as float32
    assert dataclasses.replace(theirs, norm_eps=config.norm_eps, **nothing) == config


def test_rope_scaling_is_read(tmp_path: Path) -> None:
    factors = np.array([1.0, 1.0, 2.0, 8.0])  # how llama.cpp stores Llama 3's scaling
    write_gguf(tmp_path / "plain.gguf")
    write_gguf(tmp_path / "llama3.gguf", rope_factors=factors)
    write_gguf(tmp_path / "linear.gguf", type="linear", factor=4.0)
    plain, llama3, linear = (
        inv_freq(open_checkpoint(str(tmp_path / f"{name}.gguf")))
        for name in ("plain", "llama3", "linear")
    )
    np.testing.assert_allclose(llama3, plain / factors, rtol=1e-6)
    np.testing.assert_allclose(linear, plain / 4, rtol=1e-6)


def test_mistral_is_a_llama_with_a_window(tmp_path: Path) -> None:
    weights = write_gguf(tmp_path / "tiny.gguf", **{"attention.sliding_window": 64})
    checkpoint = open_checkpoint(str(tmp_path / "tiny.gguf"))
    config = family_of(checkpoint.config).read_config(checkpoint.config)
    assert config.family == "mistral" and {layer.window for layer in config.layers} == {64}
    for name, expected in weights.items():
        assert torch.equal(checkpoint.tensor(name), expected), name


def test_longrope_is_read(tmp_path: Path) -> None:
    factors = {"rope_factors_short": np.full(4, 1.5), "rope_factors_long": np.full(4, 4.0)}
    original = {"rope.scaling.original_context_length": 64}
    write_gguf(tmp_path / "tiny.gguf", "phi3", more=factors, **original)
    checkpoint = open_checkpoint(str(tmp_path / "tiny.gguf"))
    config = family_of(checkpoint.config).read_config(checkpoint.config)
    assert config.fixed_rope_positions == 64
    plain = 10000.0 ** (-np.arange(0, 8, 2) / 8)
    np.testing.assert_allclose(config.ropes[0].inv_freq, plain / 1.5, rtol=1e-6)


def split(whole: Path, count: int) -> list[Path]:
    """As llama.cpp's gguf-split: tensors over the files, metadata in the first."""
    reader = gguf.GGUFReader(whole)
    files = []
    for number in range(count):
        name = f"{whole.stem}-{number + 1:05}-of-{count:05}.gguf"
        writer = gguf.GGUFWriter(whole.with_name(name), "llama")
        writer.add_uint16("split.no", number)
        for key, field in reader.fields.items() if number == 0 else ():
            if not key.startswith("GGUF.") and key != "general.architecture":
                writer.add_key_value(key, field.contents(), field.types[0])
        for tensor in reader.tensors[number::count]:
            writer.add_tensor(tensor.name, np.array(tensor.data))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        files.append(whole.with_name(name))
    return files


def test_a_split_file_is_one_model_whichever_part_is_named(tmp_path: Path) -> None:
    weights = write_gguf(tmp_path / "tiny.gguf")
    files = split(tmp_path / "tiny.gguf", 3)
    for file in files:
        checkpoint = open_checkpoint(str(file))
        assert checkpoint.name == "tiny" and checkpoint.tensor_names == weights.keys()
        for name, expected in weights.items():
            assert torch.equal(checkpoint.tensor(name), expected), name
    files[1].write_bytes(files[1].read_bytes()[:40])
    with pytest.raises(CheckpointError, match="tiny-00002-of-00003.gguf is not a readable GGUF"):
        open_checkpoint(str(files[0]))
    files[1].unlink()
    with pytest.raises(
        CheckpointError, match="of 3 files, and tiny-00002-of-00003.gguf is missing"
    ):
        open_checkpoint(str(files[0]))


@pytest.mark.parametrize(
    ("architecture", "metadata", "message"),
    [
        ("mamba", {}, "mamba are not supported; supported: llama, qwen2, qwen3, gemma3, phi3"),
        ("gemma2", {}, "architecture gemma2 are not supported"),
        ("qwen2", {"attention.sliding_window": 64}, "sliding window are not supported"),
    ],
)
def test_unsupported(tmp_path: Path, architecture: str, metadata: dict, message: str) -> None:
    write_gguf(tmp_path / "tiny.gguf", architecture, **metadata)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(tmp_path / "tiny.gguf"))


@pytest.mark.parametrize("keep", [0, 3, 40, 400, -1000])
def test_truncated_file(tmp_path: Path, keep: int) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes((tmp_path / "tiny.gguf").read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="damaged.gguf is not a readable GGUF file") as caught:
        open_checkpoint(str(damaged))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stored", ["F32", "Q4_0", "Q4_1", "Q8_0"])
def test_weights_equal_those_transformers_reads(tmp_path: Path, stored: str) -> None:
    write_gguf(tmp_path / "tiny.gguf", stored=gguf.GGMLQuantizationType[stored])
    checkpoint = open_checkpoint(str(tmp_path / "tiny.gguf"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf").state_dict()
    assert checkpoint.tensor_names == theirs.keys()
    assert checkpoint.dtype is torch.float32
    for name, expected in theirs.items():
        assert torch.equal(checkpoint.tensor(name), expected), name


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_formats_of_llama_cpps_larger_models(tmp_path: Path, kind: str) -> None:
    """The gguf package writes none of these: blocks of any bytes, whose scales are ordinary."""
    stored = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[stored]
    data = np.random.default_rng(0).integers(0, 60, (8, 512 // block * size)).astype(np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
    writer.add_tensor("token_embd.weight", data, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = open_checkpoint(str(tmp_path / "tiny.gguf")).tensor("model.embed_tokens.weight")
    assert found.shape == (8, 512) and found.isfinite().all() and found.any()
    assert np.array_equal(found.numpy(), gguf.quants.dequantize(data, stored))


@demo_only
def test_demo(tmp_path: Path) -> None:
    checkpoint = open_checkpoint("demo")
    family = family_of(checkpoint.config)
    config = family.read_config(checkpoint.config)
    check_names(checkpoint, family, config)
    assert config.tie_embeddings
    assert (config.num_layers, config.eos_token_ids) == (30, (2,))
    assert checkpoint.write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "River engines, 2024:\n\n  it's 12 °C"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.token_to_id("<|im_end|>") == 2
    assert "<|im_start|>" in (tmp_path / "chat_template.jinja").read_text()
