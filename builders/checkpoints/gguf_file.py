"""A GGUF file of llama.cpp: tensors are dequantised one by one as they are asked for."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, ReaderTensor, dequantize

from builders.checkpoints.base import write_templates
from builders.checkpoints.gguf_config import ROPE_FACTORS, read_config
from builders.checkpoints.gguf_split import split_files, split_name
from builders.checkpoints.gguf_tokenizer import has_tokenizer, read_tokenizer
from builders.checkpoints.text_files import named_templates
from river_trt.errors import CheckpointError, RiverError
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
# Gemma 3's names by place, as Hugging Face has them; its norms are stored as they multiply.
GEMMA3 = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
PHI3 = {"attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
MODULES_OF = {"gemma3": MODULES | GEMMA3, "phi3": MODULES | PHI3}


class GgufFile:
    def __init__(self, file: Path) -> None:
        self._files = split_files(file)
        self.name = split_name(file)
        with _readable(file):
            self._read(file)

    def _read(self, file: Path) -> None:
        readers = [_open(part) for part in self._files]
        self._reader = readers[0]
        stored = [tensor for reader in readers for tensor in reader.tensors]
        field = self._reader.fields.get("general.architecture")
        self._architecture = "" if field is None else str(field.contents())
        modules = MODULES_OF.get(self._architecture, MODULES)
        self._tensors = {_hf_name(t.name, modules): t for t in stored if t.name not in ROPE_FACTORS}
        self.tensor_names = frozenset(self._tensors)
        tied = "lm_head.weight" not in self.tensor_names
        self.config = read_config(self._reader.fields, stored, tied)
        self._has_tokenizer = has_tokenizer(self._reader)
        elements: Counter[torch.dtype] = Counter()
        for tensor in self._tensors.values():
            elements[_dtype(tensor)] += int(tensor.n_elements)
        if not elements:
            raise CheckpointError(f"{file} holds no tensors")
        self.dtype = elements.most_common(1)[0][0]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def tensor(self, name: str) -> torch.Tensor:
        with _readable(self._files[0]):
            return self._tensor(name)

    def _tensor(self, name: str) -> torch.Tensor:
        stored = self._tensors[name]
        try:
            values = dequantize(stored.data, stored.tensor_type).reshape(self.shape(name))
        except NotImplementedError as error:
            raise CheckpointError(
                f"{self.name}: {name} is stored as {stored.tensor_type.name}, which the gguf "
                "package does not read"
            ) from error
        if self._architecture == "gemma3" and values.ndim == 1:
            values = values - 1.0  # llama.cpp's converter adds the one that transformers adds
        if self._architecture == "llama":  # llama.cpp interleaves the halves RoPE rotates
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
            templates = named_templates(self._tokenizer.chat_template, self.name)
            write_templates(directory, templates)
        return True

    def text_info(self) -> TextInfo:
        if not self._has_tokenizer:
            return TextInfo()
        return TextInfo(dict(self._tokenizer.special_tokens_map))

    @cached_property
    def _tokenizer(self) -> Any:
        return read_tokenizer(self._files[0], self._reader)


def _open(file: Path) -> GGUFReader:
    with _readable(file):
        return GGUFReader(file)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """CheckpointError in place of what the gguf package raises where a file is damaged."""
    try:
        yield
    except RiverError:
        raise
    except (ValueError, LookupError, TypeError, ArithmeticError, OSError, MemoryError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{file} is not a readable GGUF file: {reason}") from error


def _hf_name(name: str, modules: Mapping[str, str]) -> str:
    match = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if match is None or match[2] not in modules:
        return name
    layer = f"model.layers.{match[1]}." if match[1] else ""
    return f"{layer}{modules[match[2]]}.{match[3]}"


def _dtype(tensor: ReaderTensor) -> torch.dtype:
    return DTYPES.get(tensor.tensor_type, torch.float32)


def _deinterleave(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """[heads * (dim/2, 2), in] -> [heads * (2, dim/2), in]: from llama.cpp's RoPE order to HF's."""
    pairs = weight.reshape(num_heads, -1, 2, *weight.shape[1:])
    return pairs.swapaxes(1, 2).reshape(weight.shape)
