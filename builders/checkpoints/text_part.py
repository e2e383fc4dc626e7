"""The language model of a checkpoint that also sees images (Ministral 3, Gemma 3): a river engine
reads text, so the vision tower is left out.
"""

import re
from pathlib import Path
from typing import Any

import torch

from builders.checkpoints.base import Checkpoint
from builders.checkpoints.text_files import eos_union
from river_trt.errors import CheckpointError
from river_trt.manifest import TextInfo

# Architecture of the whole to its possible text models: model_type and architecture.
TEXT_MODELS: dict[str, dict[str, str]] = {
    "Mistral3ForConditionalGeneration": {
        "mistral": "MistralForCausalLM",
        "ministral3": "Ministral3ForCausalLM",
    },
    "Gemma3ForConditionalGeneration": {"gemma3_text": "Gemma3ForCausalLM"},
}
# Names as the hub and transformers 5 have them, and as older versions saved them.
LANGUAGE_MODEL = re.compile(r"(?:language_model\.model|model\.language_model)\.(.+)")
LM_HEAD = re.compile(r"(?:language_model\.)?(lm_head\..+)")
VISION = re.compile(r"(?:model\.)?(?:vision_tower|multi_modal_projector)\.")


def text_part(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint itself if it is of text alone."""
    architecture = (checkpoint.config.get("architectures") or [None])[0]
    if architecture not in TEXT_MODELS:
        return checkpoint
    return TextPart(checkpoint, TEXT_MODELS[architecture])


class TextPart:
    """Tensors and config of the language model, under the names that it has on its own."""

    def __init__(self, whole: Checkpoint, text_models: dict[str, str]) -> None:
        self._whole = whole
        self.name, self.dtype = whole.name, whole.dtype
        self._stored = {
            _text_name(name): name for name in whole.tensor_names if not VISION.match(name)
        }
        self.tensor_names = frozenset(self._stored)
        self.config = _text_config(whole.config, text_models, self.tensor_names)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._whole.shape(self._stored[name])

    def tensor(self, name: str) -> torch.Tensor:
        return self._whole.tensor(self._stored[name])

    def write_tokenizer(self, directory: Path) -> bool:
        return self._whole.write_tokenizer(directory)

    def text_info(self) -> TextInfo:
        return self._whole.text_info()


def _text_name(name: str) -> str:
    if match := LANGUAGE_MODEL.fullmatch(name):
        return f"model.{match[1]}"
    match = LM_HEAD.fullmatch(name)
    return match[1] if match else name


def _text_config(
    whole: dict[str, Any], text_models: dict[str, str], tensor_names: frozenset[str]
) -> dict[str, Any]:
    """The text_config as a config.json of its own."""
    text = whole.get("text_config")
    if not isinstance(text, dict):
        raise CheckpointError("config.json has no text_config, which this architecture needs")
    kind = text.get("model_type")
    if kind not in text_models:
        raise CheckpointError(
            f"text model {kind!r} of {whole['architectures'][0]} is not supported; "
            f"supported: {', '.join(text_models)}"
        )
    # As transformers does: a head that is there is used, whatever the config says of tying.
    untied = whole.get("tie_word_embeddings", text.get("tie_word_embeddings")) is False
    config = text | {
        "architectures": [text_models[kind]],
        "tie_word_embeddings": not untied and "lm_head.weight" not in tensor_names,
    }
    for key in ("eos_token_id", "bos_token_id", "quantization_config"):
        if whole.get(key) is not None:
            config[key] = whole[key]
    ids = eos_union(config.get("eos_token_id"), text.get("eos_token_id"))
    if ids != eos_union(config.get("eos_token_id")):  # as it is written where text adds none
        config["eos_token_id"] = ids
    return config
