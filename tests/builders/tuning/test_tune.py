"""The river rounded by curvature: nearer to its backbone, and nothing changes but codes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

import river_trt.text
from builders.calibration.texts import Texts
from builders.calibration_text import TUNING_TEXTS, read_calibration, tuning_pieces
from builders.evaluation import evaluate
from builders.quantisers import make_quantiser
from builders.quantisers.base import RiverWeight
from builders.reference import teacher_forced
from builders.river_bank import load_decoder, river_format, stream_layers
from builders.source import ModelSource
from builders.tuning import tune
from river_trt.errors import RiverError
from river_trt.spec import ExitPolicy
from tests.builders.families.tiny_models import TINY_MODELS, save_tiny_model
from tests.builders.tiny_llama import save_tiny_llama

ALL_RIVER = -np.inf


def rivers_of(source: ModelSource, name: str, ids: torch.Tensor) -> list[dict[str, RiverWeight]]:
    made = make_quantiser(name, 32, symmetric=False)
    return [bank.river for bank in stream_layers(source, made, source.shared(), ids)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_llama(directory, hidden_size=64, num_hidden_layers=4, initializer_range=0.1)
    return ModelSource.open(str(directory))


@pytest.fixture(scope="module")
def ids(source: ModelSource) -> torch.Tensor:
    return read_calibration(Path("none"), source.config, None).token_ids


@pytest.fixture(autouse=True)
def little_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "TEXTS", 96)
    monkeypatch.setattr(tune, "TOKENS", 48)


def test_only_codes_change_and_the_same_every_time(source, ids):
    before, after = rivers_of(source, "awq", ids), rivers_of(source, "tuned", ids)
    again = rivers_of(source, "tuned", ids)
    for layer, (old, new, third) in enumerate(zip(before, after, again, strict=True)):
        for name in old:
            assert torch.equal(old[name].scales, new[name].scales)
            assert torch.equal(old[name].zero_points, new[name].zero_points)
            assert old[name].num_bytes == new[name].num_bytes
            assert torch.equal(old[name].qweight, new[name].qweight) == (layer == 0)
            assert torch.equal(new[name].qweight, third[name].qweight)
            if name in ("qkv", "o", "gate_up"):
                assert torch.equal(old[name].pre_scale, new[name].pre_scale)


def kl_all_river(source: ModelSource, name: str, ids: torch.Tensor) -> float:
    made = make_quantiser(name, 32, symmetric=False)
    layout = river_format(source.config, made, 32, symmetric=False)
    decoder = load_decoder(source, made, layout, ids.shape[1], ids)
    policy = ExitPolicy.uniform(source.config.num_layers, ALL_RIVER)
    (found,) = evaluate(
        lambda text, chosen: teacher_forced(decoder, text, chosen), ids.numpy(), [policy], 16
    )
    return found.kl


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2"])
def test_all_river_comes_nearer_to_the_backbone(tmp_path, family):
    """Biases, soft caps, norms on both sides, windows: the decoder's own forward is trained."""
    save_tiny_model(tmp_path, TINY_MODELS[family])
    source = ModelSource.open(str(tmp_path))
    ids = read_calibration(Path("none"), source.config, None).token_ids
    assert kl_all_river(source, "tuned", ids) < 0.95 * kl_all_river(source, "awq", ids)


def test_no_training_without_the_memory(source, ids, monkeypatch):
    monkeypatch.setattr(tune, "available_memory", lambda: 1000)
    with pytest.raises(RiverError, match="tuned needs about .* GB of memory .* --quantiser awq"):
        rivers_of(source, "tuned", ids)


def test_text_that_tunes_judges_no_policy(tmp_path):
    ModelSource.open("demo").checkpoint.write_tokenizer(tmp_path)
    tokenizer = river_trt.text.Tokenizer(Tokenizer.from_file(str(tmp_path / "tokenizer.json")))
    texts = Texts.read(tokenizer, 2048)
    length = len(texts.search[0])
    pieces = tuning_pieces(tokenizer, length)
    assert pieces.shape == (TUNING_TEXTS, length)
    kept_apart = [piece.tolist() for piece in (*texts.search, *texts.report)]
    assert all(piece not in kept_apart for piece in pieces.tolist())
