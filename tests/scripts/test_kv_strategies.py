import numpy as np
import pytest
import torch
from torch.nn.functional import embedding, linear

from builders.decoder import RiverDecoder
from builders.dialect import cosine, rotate
from builders.recipes import load_recipe
from builders.reference import load_reference, teacher_forced
from builders.source import ModelSource
from river_trt.errors import RiverError
from river_trt.spec import ExitPolicy
from scripts.research.kv_strategies import READOUTS, STRATEGIES, run_strategy
from tests.builders.tiny_engines import TINY
from tests.builders.tiny_llama import save_tiny_llama

TAU, INF = 0.8, float("inf")
IDS = torch.randint(112, (24,), generator=torch.Generator().manual_seed(5))
ALL = pytest.mark.parametrize(
    ("strategy", "readout"), [(s, r) for s in STRATEGIES for r in READOUTS]
)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> RiverDecoder:
    directory = tmp_path_factory.mktemp("tiny")
    save_tiny_llama(directory, **TINY)
    recipe = load_recipe("cpu", {"quantiser": "rtn", "group_size": 32})
    return load_reference(ModelSource.open(str(directory)), directory / "none", recipe, 64)


@pytest.fixture(scope="module")
def full_depth(decoder):
    return run_strategy(decoder, IDS, INF, "share", "river")


@ALL
def test_nobody_exits_is_the_plain_model(decoder, full_depth, strategy, readout):
    expected, _ = teacher_forced(decoder, IDS[None].numpy(), ExitPolicy.full_depth(4))
    found = run_strategy(decoder, IDS, INF, strategy, readout, full_depth)
    np.testing.assert_allclose(found.logits, expected[0], atol=1e-4)
    assert (found.exit_layer == 4).all() and not found.river_layers.any()


@pytest.mark.parametrize("readout", READOUTS)
def test_share_is_the_river_engine(decoder, readout):
    expected, exit_layer = teacher_forced(decoder, IDS[None].numpy(), ExitPolicy.uniform(4, TAU))
    found = run_strategy(decoder, IDS, TAU, "share", readout)
    np.testing.assert_allclose(found.logits, expected[0], atol=1e-4)
    np.testing.assert_array_equal(found.exit_layer, exit_layer[0])
    assert len(np.unique(exit_layer)) >= 3, "tau must split the tokens"


@ALL
def test_no_token_sees_the_future(decoder, full_depth, strategy, readout):
    whole = run_strategy(decoder, IDS, TAU, strategy, readout, full_depth)
    part = run_strategy(decoder, IDS[:10], INF, "share", "river")
    prefix = run_strategy(decoder, IDS[:10], TAU, strategy, readout, part)
    np.testing.assert_allclose(prefix.logits, whole.logits[:10], atol=1e-4)
    np.testing.assert_array_equal(prefix.exit_layer, whole.exit_layer[:10])


def test_recompute_leaves_the_cache_of_the_backbone(decoder, full_depth):
    found = run_strategy(decoder, IDS, TAU, "recompute", "exit state", full_depth)
    for (k, v), (full_k, full_v) in zip(found.caches, full_depth.caches, strict=True):
        assert torch.equal(k, full_k) and torch.equal(v, full_v)
    assert torch.equal(found.recomputed_layers, 4 - found.exit_layer)
    assert not found.river_layers.any()


def test_exit_state_is_read_by_the_final_norm_and_head(decoder):
    found = run_strategy(decoder, IDS, -INF, "mask", "exit state")
    states = []
    hook = decoder.layers[0].register_forward_hook(lambda _, args, out: states.append(out[0]))
    teacher_forced(decoder, IDS[None].numpy(), ExitPolicy.full_depth(4))
    hook.remove()
    expected = linear(decoder.norm(states[0][0]), decoder.lm_head)
    np.testing.assert_allclose(found.logits, expected, atol=1e-4)


@pytest.mark.parametrize("readout", READOUTS)
@pytest.mark.parametrize("strategy", ["mask", "propagate", "monotone"])
def test_parallel_pass_is_decoding_token_by_token(decoder, strategy, readout):
    found = run_strategy(decoder, IDS, TAU, strategy, readout)
    logits, exits = decode(decoder, strategy, readout == "river")
    assert found.exit_layer.tolist() == exits
    assert len(set(exits)) >= 2, "tau must split the tokens"
    np.testing.assert_allclose(found.logits, logits, atol=1e-4)
    if strategy == "monotone":
        assert exits == sorted(exits, reverse=True)


@torch.inference_mode()
def decode(decoder: RiverDecoder, strategy: str, on_river: bool) -> tuple[torch.Tensor, list[int]]:
    """The strategies written for one token at a time, over lists of what each layer holds."""
    held = [[] for _ in decoder.layers]  # (k, v) [heads, D] of the tokens that can be seen
    logits, exits = [], []
    for position, token in enumerate(IDS):
        h = embedding(token, decoder.embedding)[None, None]
        exit_layer, exit_state = 4, h
        limit = min(exits, default=4) if strategy == "monotone" else 4
        for index, layer in enumerate(decoder.layers):
            exited = exit_layer <= index
            q, k, v = project(decoder, index, h, exited and on_river, position)
            seen = [*held[index], (k, v)]
            if strategy == "propagate" and exited:
                held[index].append(project(decoder, index, exit_state, False, position)[1:])
            elif not (exited and strategy == "mask"):
                held[index].append((k, v))
            if exited and not on_river:
                continue
            keys = torch.stack([key for key, _ in seen], 1).repeat_interleave(2, 0)
            values = torch.stack([value for _, value in seen], 1).repeat_interleave(2, 0)
            weights = torch.einsum("hd,hsd->hs", q, keys) * q.shape[-1] ** -0.5
            out = torch.einsum("hs,hsd->hd", weights.softmax(-1), values).flatten()[None, None]
            bank = torch.tensor([[exited]])
            h_out = h + layer.self_attn.o_proj(out, bank)
            h_out = h_out + layer.mlp(layer.post_attention_norm(h_out), bank)
            if not exited and (cosine(h, h_out).item() > TAU or index + 1 == limit):
                exit_layer, exit_state = index + 1, h_out
            h = h_out
        logits.append(linear(decoder.norm(h), decoder.lm_head)[0, 0])
        exits.append(exit_layer)
    return torch.stack(logits), exits


def project(decoder, index, h, river, position):
    """q [4, D], k and v [2, D] of one token."""
    layer = decoder.layers[index]
    qkv = layer.self_attn.qkv_proj(layer.input_norm(h), torch.tensor([[river]]))
    q, k, v = (part.view(-1, 1, 16) for part in qkv[0, 0].split((64, 32, 32)))
    at = slice(position, position + 1)
    cos, sin = decoder.rotary_cos[at], decoder.rotary_sin[at]
    return rotate(q, cos, sin)[:, 0], rotate(k, cos, sin)[:, 0], v[:, 0]


def test_another_family_is_refused(decoder):
    object.__setattr__(decoder.config, "family", "gemma3")
    try:
        with pytest.raises(RiverError, match="written for llama models, not gemma3"):
            run_strategy(decoder, IDS, TAU, "mask", "river")
    finally:
        object.__setattr__(decoder.config, "family", "llama")
