import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.checkpoints import open_checkpoint
from river_trt.errors import CheckpointError
from tests.builders.tiny_llama import save_tiny_llama

SHARD_INDEX = "model.safetensors.index.json"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_tiny_llama(tmp_path)
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_tiny_llama(tmp_path, max_shard_size="20KB")
    assert (tmp_path / SHARD_INDEX).is_file()
    return tmp_path


def refuses(directory: Path, message: str) -> None:
    """The checkpoint is refused in one line that matches `message`."""
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(str(directory))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("max_shard_size", ["1GB", "20KB"])
def test_every_tensor_equals_the_saved_one(
    tmp_path: Path, dtype: torch.dtype, max_shard_size: str
) -> None:
    model = save_tiny_llama(tmp_path, dtype, max_shard_size)
    checkpoint = open_checkpoint(str(tmp_path))
    assert checkpoint.dtype is dtype
    assert checkpoint.name == tmp_path.name
    assert checkpoint.config["hidden_size"] == 32
    assert checkpoint.tensor_names == set(model.state_dict())
    for name, expected in model.state_dict().items():
        assert checkpoint.shape(name) == tuple(expected.shape)
        found = checkpoint.tensor(name)
        assert found.dtype is dtype
        assert torch.equal(found, expected)


def test_dtype_is_that_of_most_weights(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    halved = {name: t if t.ndim == 1 else t.to(torch.bfloat16) for name, t in tensors.items()}
    save_file(halved, directory / "model.safetensors")
    assert open_checkpoint(str(directory)).dtype is torch.bfloat16


def test_stop_tokens_come_from_the_generation_config(directory: Path) -> None:
    (directory / "generation_config.json").write_text('{"eos_token_id": [5, 7]}')
    assert open_checkpoint(str(directory)).config["eos_token_id"] == [5, 7, 2]  # 2 is the config's


def test_tokenizer_files_are_copied(
    directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    checkpoint = open_checkpoint(str(directory))
    out = tmp_path_factory.mktemp("out")
    assert not checkpoint.write_tokenizer(out)
    assert list(out.iterdir()) == []
    (directory / "tokenizer.json").write_text('{"model": "é"}', encoding="utf-8")
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    assert checkpoint.write_tokenizer(out)
    names = {"tokenizer.json", "chat_template.jinja", "generation_config.json"}
    assert {path.name for path in out.iterdir()} == names
    assert (out / "tokenizer.json").read_bytes() == (directory / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    "template", ["{{ messages }}", [{"name": "default", "template": "{{ messages }}"}]]
)
def test_old_chat_template_is_found_in_the_tokenizer_config(
    directory: Path, tmp_path_factory: pytest.TempPathFactory, template: object
) -> None:
    (directory / "tokenizer.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    out = tmp_path_factory.mktemp("out")
    assert open_checkpoint(str(directory)).write_tokenizer(out)
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"


def test_missing_config(directory: Path) -> None:
    (directory / "config.json").unlink()
    refuses(directory, "no config.json")


@pytest.mark.parametrize("content", ["{not json", "[1, 2]", b"\xff\xfe\xff"])
def test_invalid_config(directory: Path, content: str | bytes) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (directory / "config.json").write_bytes(data)
    refuses(directory, "config.json")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickle_is_refused_and_never_opened(directory: Path, name: str) -> None:
    (directory / "model.safetensors").unlink()
    (directory / name).write_bytes(b"not even a pickle")
    refuses(directory, "only safetensors")


def test_no_weights_at_all(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    refuses(directory, "neither model.safetensors nor")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_safetensors(directory: Path, keep: int) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    refuses(directory, "model.safetensors is damaged or cut short")


def test_missing_shard(sharded: Path) -> None:
    next(sharded.glob("model-00002-*")).unlink()
    refuses(sharded, "lacks model-00002-.*, which .* lists")


def test_index_names_a_tensor_its_shard_lacks(sharded: Path) -> None:
    index = json.loads((sharded / SHARD_INDEX).read_text())
    index["weight_map"]["model.extra.weight"] = index["weight_map"]["model.norm.weight"]
    (sharded / SHARD_INDEX).write_text(json.dumps(index))
    refuses(sharded, "disagree about model.extra.weight")


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "..", "a\\b"])
def test_shard_outside_the_directory(sharded: Path, shard: str) -> None:
    index = json.loads((sharded / SHARD_INDEX).read_text())
    index["weight_map"]["model.norm.weight"] = shard
    (sharded / SHARD_INDEX).write_text(json.dumps(index))
    refuses(sharded, "outside the directory")


def test_index_without_a_weight_map(sharded: Path) -> None:
    (sharded / SHARD_INDEX).write_text("{}")
    refuses(sharded, "no weight_map")


def test_dtype_that_is_no_float(directory: Path) -> None:
    save_file({"weight": torch.zeros(4, 4, dtype=torch.int8)}, directory / "model.safetensors")
    refuses(directory, "stores its weights as I8")


def test_empty_safetensors(directory: Path) -> None:
    save_file({}, directory / "model.safetensors")
    refuses(directory, "holds no tensors")
