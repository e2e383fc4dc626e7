"""Models that also see images: their language model alone, against the whole model on text."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Ministral3Config,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralVisionConfig,
    PreTrainedModel,
    SiglipVisionConfig,
)

from builders.quantisers import make_quantiser
from builders.reference import teacher_forced
from builders.river_bank import load_decoder, river_format
from builders.source import ModelSource
from river_trt.errors import CheckpointError
from river_trt.spec import ExitPolicy
from tests.builders.families.tiny_models import LAYERS, SIZES, WINDOW, YARN

IDS = np.random.default_rng(0).integers(11, 112, (2, 4 * WINDOW))  # 10 stands for an image
TEXT: dict[str, Any] = SIZES | {"head_dim": 16, "sliding_window": WINDOW}
VISION = {"num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}


def mistral3(text: Any, tied: bool) -> PreTrainedModel:
    vision = PixtralVisionConfig(hidden_size=32, intermediate_size=32, head_dim=16, **VISION)
    config = Mistral3Config(text_config=text, vision_config=vision, tie_word_embeddings=tied)
    return Mistral3ForConditionalGeneration(config)


def gemma3() -> PreTrainedModel:
    vision = SiglipVisionConfig(hidden_size=16, intermediate_size=32, **VISION)
    text = Gemma3TextConfig(**TEXT)
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config)


MODELS = {
    "ministral3": lambda: mistral3(Ministral3Config(**TEXT, rope_parameters=YARN), False),
    "ministral3, tied": lambda: mistral3(Ministral3Config(**TEXT, rope_parameters=YARN), True),
    "mistral": lambda: mistral3(MistralConfig(**TEXT), False),
    "gemma3": gemma3,
}


def save(directory: Path, name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    model = MODELS[name]()
    model.save_pretrained(directory)
    return model.eval()


def rename(directory: Path, old: str, new: str) -> None:
    file = directory / "model.safetensors"
    save_file({name.replace(old, new): t for name, t in load_file(file).items()}, file)


@pytest.mark.parametrize("name", MODELS)
def test_text_equals_the_whole_model(tmp_path, name):
    model = save(tmp_path, name)
    source = ModelSource.open(str(tmp_path))
    quantiser = make_quantiser("rtn", 32, False)
    river = river_format(source.config, quantiser, 32, False)
    decoder = load_decoder(source, quantiser, river, IDS.shape[1])
    logits, _ = teacher_forced(decoder, IDS, ExitPolicy.full_depth(LAYERS))
    with torch.inference_mode():
        expected = model(input_ids=torch.from_numpy(IDS)).logits.numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-3, rtol=0)
    assert source.config.tie_embeddings == (name in ("ministral3, tied", "gemma3"))
    assert source.config.eos_token_ids == (2,)
    assert source.num_parameters < sum(p.numel() for p in model.parameters())


def test_names_of_older_transformers(tmp_path):
    save(tmp_path, "ministral3")
    expected = ModelSource.open(str(tmp_path))
    linears = expected.layer(1).linears
    rename(tmp_path, "language_model.model.", "model.language_model.")
    rename(tmp_path, "language_model.lm_head.", "lm_head.")
    rename(tmp_path, "vision_tower.", "model.vision_tower.")
    source = ModelSource.open(str(tmp_path))
    assert source.checkpoint.tensor_names == expected.checkpoint.tensor_names
    for name, weight in source.layer(1).linears.items():
        assert torch.equal(weight, linears[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_config": None}, "has no text_config"),
        ({"text_config": {"model_type": "qwen2"}}, "'qwen2' of Mistral3.* supported: mistral, min"),
        ({"quantization_config": {"quant_method": "fp8"}}, "already quantised .fp8"),
    ],
)
def test_refused(tmp_path, change, message):
    save(tmp_path, "ministral3")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=message):
        ModelSource.open(str(tmp_path))


def test_tensor_of_another_kind(tmp_path):
    """Only the vision tower is left out, nothing else."""
    save(tmp_path, "ministral3")
    rename(tmp_path, "vision_tower.", "audio_tower.")
    with pytest.raises(CheckpointError, match="unknown .* audio_tower"):
        ModelSource.open(str(tmp_path))
