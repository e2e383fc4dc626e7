"""A GGUF file of llama.cpp: tensors are dequantised one by one as they are asked for."""

import re
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor, dequantize

from builders.checkpoints.base import write_templates
from builders.checkpoints.text_files import named_templates
from river_trt.errors import CheckpointError
from river_trt.manifest import TextInfo
from river_trt.text import TOKENIZER_FILE

# Formats without loss keep their dtype; every other one is dequantised to float32.
DTYPES = {GGMLQuantizationType.F16: torch.float16, GGMLQuantizationType.BF16: torch.bfloat16}

# GGUF module name -> Hugging Face module name. A tensor that is not here keeps its GGUF name and
# is then found to be left over.
MODULES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# Per-frequency RoPE divisors: how llama.cpp stores Llama 3's scaling. Read into the config.
ROPE_FACTORS = "rope_freqs.weight"
# The families whose tensors and metadata map one to one. Others need more than names (Gemma's
# norms, Phi's fused projections, windows), so they are read from Hugging Face checkpoints only.
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


class GgufFile:
    def __init__(self, file: Path) -> None:
        self._file = file
        self.name = file.stem
        try:
            reader = GGUFReader(file)
        except (ValueError, IndexError, KeyError, OverflowError, OSError) as error:
            raise CheckpointError(f"{file} is not a readable GGUF file: {error}") from error
        self._tensors = {_hf_name(t.name): t for t in reader.tensors if t.name != ROPE_FACTORS}
        self.tensor_names = frozenset(self._tensors)
        self.config = _read_config(reader, tied="lm_head.weight" not in self.tensor_names)
        self._has_tokenizer = "tokenizer.ggml.tokens" in reader.fields
        elements: Counter[torch.dtype] = Counter()
        for tensor in self._tensors.values():
            elements[_dtype(tensor)] += int(tensor.n_elements)
        if not elements:
            raise CheckpointError(f"{file} holds no tensors")
        self.dtype = elements.most_common(1)[0][0]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def tensor(self, name: str) -> torch.Tensor:
        stored = self._tensors[name]
        values = dequantize(stored.data, stored.tensor_type).reshape(self.shape(name))
        if self.config["model_type"] == "llama":  # llama.cpp interleaves the halves RoPE rotates
            if name.endswith("q_proj.weight"):
                values = _deinterleave(values, self.config["num_attention_heads"])
            elif name.endswith("k_proj.weight"):
                values = _deinterleave(values, self.config["num_key_value_heads"])
        return torch.from_numpy(np.array(values)).to(_dtype(stored))  # a copy: no view of the file

    def write_tokenizer(self, directory: Path) -> bool:
        if not self._has_tokenizer:
            return False
        self._tokenizer.backend_tokenizer.save(str(directory / TOKENIZER_FILE))
        if self._tokenizer.chat_template:
            templates = named_templates(self._tokenizer.chat_template, self._file.name)
            write_templates(directory, templates)
        return True

    def text_info(self) -> TextInfo:
        if not self._has_tokenizer:
            return TextInfo()
        return TextInfo(dict(self._tokenizer.special_tokens_map))

    @cached_property
    def _tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self._file.parent, gguf_file=self._file.name)


def _read_config(reader: GGUFReader, tied: bool) -> dict[str, Any]:
    """GGUF metadata under the names of a Hugging Face config.json."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    def field(key: str, default: Any = None) -> Any:
        return reader.fields[key].contents() if key in reader.fields else default

    architecture = field("general.architecture", "unnamed")
    if architecture not in ARCHITECTURES:
        raise CheckpointError(
            f"GGUF files of architecture {architecture} are not supported; "
            f"supported: {', '.join(ARCHITECTURES)}"
        )
    if field(f"{architecture}.attention.sliding_window"):
        raise CheckpointError("GGUF files with a sliding window are not supported")
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[architecture]],
        "model_type": architecture,
        "tie_word_embeddings": tied,
    }
    mapping: Any = GGUF_CONFIG_MAPPING
    for gguf_key, name in mapping.get(architecture, {}).items():
        value = field(f"{architecture}.{gguf_key}")
        if name is not None and value is not None:
            config[name] = value
    if (head_dim := field(f"{architecture}.attention.key_length")) is not None:
        config["head_dim"] = head_dim
    if "vocab_size" not in config:
        config["vocab_size"] = len(field("tokenizer.ggml.tokens", ()))
    for token in ("bos_token_id", "eos_token_id"):
        config[token] = field(f"tokenizer.ggml.{token}")
    config["rope_scaling"] = _rope_scaling(reader, field, architecture)
    return config


def _rope_scaling(reader: GGUFReader, field: Any, architecture: str) -> dict[str, Any] | None:
    factors = next((t.data for t in reader.tensors if t.name == ROPE_FACTORS), None)
    if factors is not None:  # longrope with one list of factors divides each frequency by its own
        divisors = np.asarray(factors, np.float32).tolist()
        return {
            "rope_type": "longrope",
            "short_factor": divisors,
            "long_factor": divisors,
            "attention_factor": 1.0,
        }
    prefix = f"{architecture}.rope.scaling."
    kind = field(prefix + "type", "none")
    if kind == "none":
        return None
    scaling = {"rope_type": kind, "factor": field(prefix + "factor")}
    if (original := field(prefix + "original_context_length")) is not None:
        scaling["original_max_position_embeddings"] = original
    return scaling


def _hf_name(name: str) -> str:
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in MODULES:
        return name
    layer = f"model.layers.{match[1]}." if match[1] else ""
    return f"{layer}{MODULES[match[2]]}.{match[3]}"


def _dtype(tensor: ReaderTensor) -> torch.dtype:
    return DTYPES.get(tensor.tensor_type, torch.float32)


def _deinterleave(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """[heads * (dim/2, 2), in] -> [heads * (2, dim/2), in]: from llama.cpp's RoPE order to HF's."""
    pairs = weight.reshape(num_heads, -1, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)
