"""The backbone that is tuned on: one model in one pass and token by token; gradients as torch's."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from builders.decoder import RiverDecoder
from builders.quantisers import make_quantiser
from builders.reference import teacher_forced
from builders.river_bank import load_decoder, river_format
from builders.source import ModelSource
from builders.tuning import backbone as backbones
from builders.tuning.backbone import Backbone
from builders.tuning.curvature import SKIP, measure_curvature
from builders.tuning.writing import write_texts
from river_trt.progress import silent
from river_trt.spec import ExitPolicy
from tests.builders.families.tiny_models import TINY_MODELS, save_tiny_model

TOKENS = 24


@pytest.fixture(scope="module", params=["llama", "gemma2", "qwen2"])
def source(request, tmp_path_factory) -> ModelSource:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_model(directory, TINY_MODELS[request.param])
    return ModelSource.open(str(directory))


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def backbone(request, source, monkeypatch) -> Backbone:
    monkeypatch.setattr(backbones, "product_dtype", lambda: request.param)
    return Backbone(source, source.shared(), TOKENS)


@pytest.fixture(scope="module")
def decoder(source) -> RiverDecoder:
    rtn = make_quantiser("rtn", 32, symmetric=False)
    layout = river_format(source.config, rtn, 32, symmetric=False)
    return load_decoder(source, rtn, layout, TOKENS)


@pytest.fixture
def ids(source) -> torch.Tensor:
    seeded = torch.Generator().manual_seed(0)
    return torch.randint(source.config.vocab_size, (3, TOKENS), generator=seeded)


@torch.no_grad()
def test_it_is_the_decoder_at_full_depth(backbone, decoder, ids):
    full = ExitPolicy.full_depth(backbone.config.num_layers)
    expected = torch.from_numpy(teacher_forced(decoder, ids.numpy(), full)[0])
    loose = 1e-4 if backbone.dtype is torch.float32 else 0.05
    found = backbone.logits(backbone.hidden(ids))
    assert (found - expected).norm() < loose * expected.norm()


def test_it_writes_what_it_would_say(backbone):
    """Whole text or token by token; the same text every time, from its beginnings."""
    beginnings = torch.arange(12).view(4, 3)
    texts = write_texts(backbone, beginnings, TOKENS, silent)
    assert torch.equal(texts, write_texts(backbone, beginnings, TOKENS, silent))
    assert torch.equal(texts[::2, :3], beginnings[::2])
    assert len(set(texts[1::2, 0].tolist())) > 1
    with torch.no_grad():
        surprise = -backbone.logits(backbone.hidden(texts)).log_softmax(-1)
        own = surprise[:, :-1].gather(2, texts[:, 1:, None])[:, 4:].mean()
        of_others = surprise[:, :-1].gather(2, texts.flip(0)[:, 1:, None])[:, 4:].mean()
    assert own < of_others


def test_curvature_is_of_the_gradients_of_what_was_written(source, ids, monkeypatch):
    monkeypatch.setattr(backbones, "product_dtype", lambda: torch.float32)
    backbone = Backbone(source, source.shared(), TOKENS)
    curvatures = measure_curvature(backbone, ids, silent)
    assert curvatures[0] == {}
    seen = {}  # by torch's own hooks
    for name, linear in backbone.linears[1].items():
        inputs, grads = [], []
        linear.register_forward_pre_hook(lambda _, args, to=inputs: to.append(args[0].detach()))
        linear.register_full_backward_hook(lambda _, __, grad, to=grads: to.append(grad[0]))
        seen[name] = (inputs, grads)
    hidden = backbone.hidden(ids)
    logits = backbone.logits(hidden)[:, SKIP:-1].flatten(0, 1)
    cross_entropy(logits, ids[:, SKIP + 1 :].flatten(), reduction="sum").backward()
    for name, (inputs, grads) in seen.items():
        x, g = inputs[0].flatten(0, 1), grads[0].flatten(0, 1)
        both = x.square().sum(1) @ g.square().sum(1)
        expected = (x * g.square().sum(1)[:, None]).T @ x / both
        torch.testing.assert_close(curvatures[1][name].inputs, expected, rtol=1e-3, atol=1e-6)
        expected = (g * x.square().sum(1)[:, None]).T @ g / len(x)
        parts = curvatures[1][name].outputs
        n = parts.shape[1]
        for index, part in enumerate(parts):
            own = slice(index * n, index * n + n)
            torch.testing.assert_close(part, expected[own, own], rtol=1e-3, atol=1e-6)
