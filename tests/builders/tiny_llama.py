"""Tiny random Llamas on disk, for tests that need a real checkpoint and no network."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 112,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def tiny_llama(dtype: torch.dtype = torch.float32, **changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(SIZES | changes)))
    torch.nn.Module.to(model, dtype)
    return model


def save_tiny_llama(
    directory: Path,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "1GB",
    **changes: Any,
) -> LlamaForCausalLM:
    """Save the model `tiny_llama` makes, and return it."""
    model = tiny_llama(dtype, **changes)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    return model


def save_word_tokenizer(directory: Path) -> None:
    """A tokenizer for it: the words w0 .. w99, and ? for any other."""
    words = {f"w{number}": number for number in range(100)} | {"?": 100}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(directory / "tokenizer.json"))
