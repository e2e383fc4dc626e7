"""The dialect's three operators against plain formulas: the reference for every backend."""

import math

import pytest
import torch
from torch import Tensor

from builders.dialect import dequantise

OPS = torch.ops.river_trt
BATCH, SEQ, N, K, GROUP = 2, 3, 8, 80, 32  # 80 fills two groups and half of a third


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def integers(high: int, *shape: int, seed: int = 0, dtype: torch.dtype = torch.uint8) -> Tensor:
    drawn = torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(dtype)


# --- linear ---

QWEIGHT = integers(256, N, 3, GROUP // 2)
SCALES = random(N, 3, seed=1).abs() + 0.1
ZERO_POINTS = integers(16, N, 3, seed=2)
WEIGHT, X = random(N, K, seed=3), random(BATCH, SEQ, K, seed=4)
PRE_SCALE, BIAS = random(K, seed=5).abs() + 0.5, random(N, seed=6)
MIXED = torch.tensor([[True, False, True], [False, False, True]])
PARTS = {
    "asymmetric": (ZERO_POINTS, None, None),
    "symmetric": (None, None, None),
    "pre_scale": (ZERO_POINTS, PRE_SCALE, None),
    "bias": (ZERO_POINTS, None, BIAS),
    "all": (None, PRE_SCALE, BIAS),
}


def river_row(
    x: Tensor, zero_points: Tensor | None, pre_scale: Tensor | None, bias: Tensor | None
) -> list[float]:
    """One row through the river, a multiplication at a time, in double precision."""
    y = []
    for n in range(N):
        total = 0.0 if bias is None else bias[n].item()
        for k in range(K):
            group, place = divmod(k, GROUP)
            byte = QWEIGHT[n, group, place // 2].item()
            code = byte >> 4 if k % 2 else byte & 15
            zero = 8 if zero_points is None else zero_points[n, group].item()
            factor = 1.0 if pre_scale is None else pre_scale[k].item()
            total += x[k].item() * factor * (code - zero) * SCALES[n, group].item()
        y.append(total)
    return y


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_linear_takes_each_row_through_its_own_bank(parts):
    y = OPS.linear(X, MIXED, WEIGHT, QWEIGHT, SCALES, *parts)
    bias = 0.0 if parts[2] is None else parts[2]
    for row in range(BATCH):
        for token in range(SEQ):
            x = X[row, token]
            river = torch.tensor(river_row(x, *parts))
            expected = river if MIXED[row, token] else WEIGHT @ x + bias
            torch.testing.assert_close(y[row, token], expected, atol=2e-4, rtol=1e-5)


def test_linear_with_all_rows_on_one_bank():
    """No row on the river is a path of its own."""
    arguments = (WEIGHT, QWEIGHT, SCALES, ZERO_POINTS, PRE_SCALE, BIAS)
    mixed = OPS.linear(X, MIXED, *arguments)
    river = OPS.linear(X, torch.ones_like(MIXED), *arguments)
    backbone = OPS.linear(X, torch.zeros_like(MIXED), *arguments)
    torch.testing.assert_close(mixed, torch.where(MIXED[..., None], river, backbone))
    assert (river - backbone).abs().max() > 1, "the banks must differ"


def test_padding_of_a_part_filled_group_is_not_read():
    """Whatever the codes past K are, the result is the same."""
    padded = QWEIGHT.clone()
    padded[:, -1, (K % GROUP) // 2 :] ^= 0xFF
    plain = dequantise(QWEIGHT, SCALES, ZERO_POINTS, K)
    assert plain.shape == (N, K)
    assert torch.equal(plain, dequantise(padded, SCALES, ZERO_POINTS, K))


# --- gate ---

LAYER, HIDDEN = 3, 16
H_IN, H_OUT = random(BATCH, SEQ, HIDDEN), random(BATCH, SEQ, HIDDEN, seed=1)
DIRECTION = random(HIDDEN, seed=2)
NEVER = torch.full((BATCH, SEQ), 9, dtype=torch.int32)
NONE_EXITED = torch.zeros(BATCH, SEQ, dtype=torch.bool)


def gate(
    tau: float,
    scope: int = 0,
    h_in: Tensor = H_IN,
    use_direction: bool = False,
    exited: Tensor = NONE_EXITED,
    exit_layer: Tensor = NEVER,
) -> tuple[Tensor, Tensor]:
    return OPS.gate(
        h_in,
        H_OUT,
        DIRECTION,
        torch.tensor(use_direction),
        exited,
        exit_layer,
        torch.tensor(tau),
        torch.tensor(scope, dtype=torch.int32),
        LAYER,
    )


def scores(reference: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(reference, H_OUT, dim=-1)


@pytest.mark.parametrize("use_direction", [False, True])
def test_gate_scopes_token_sequence_batch(use_direction):
    """A token that passes alone is held back by a lower one in its sequence, or in its batch."""
    score = scores(DIRECTION.expand_as(H_OUT) if use_direction else H_IN)
    lowest = score.amin(1)  # of each sequence
    assert lowest[0] != lowest[1]
    between = lowest.mean().item()  # one whole sequence passes, the other does not
    exited, exit_layer = gate(between, 0, use_direction=use_direction)
    assert torch.equal(exited, score > between)
    assert torch.equal(exit_layer, torch.where(exited, LAYER, NEVER))
    exited, _ = gate(between, 1, use_direction=use_direction)
    assert torch.equal(exited, (lowest > between)[:, None].expand(BATCH, SEQ))
    assert exited.any() and not exited.all()
    exited, _ = gate(between, 2, use_direction=use_direction)
    assert not exited.any()
    exited, _ = gate(lowest.min().item() - 1e-3, 2, use_direction=use_direction)
    assert exited.all()


def test_gate_of_a_zero_vector_scores_zero():
    """No NaN: it exits below tau 0 and never above."""
    h_in = torch.zeros_like(H_IN)
    assert gate(-1e-6, h_in=h_in)[0].all()
    assert not gate(0.0, h_in=h_in)[0].any()


@pytest.mark.parametrize("scope", [0, 1, 2])
def test_infinite_tau_forces_and_forbids(scope):
    """Also where the score is exactly 1."""
    exited, exit_layer = gate(-math.inf, scope)
    assert exited.all() and (exit_layer == LAYER).all()
    exited, exit_layer = gate(math.inf, scope, h_in=H_OUT)
    assert not exited.any() and torch.equal(exit_layer, NEVER)


def test_gate_never_takes_an_exit_back():
    exit_layer = torch.where(MIXED, 1, NEVER).to(torch.int32)
    exited, later = gate(math.inf, exited=MIXED, exit_layer=exit_layer)
    assert torch.equal(exited, MIXED) and torch.equal(later, exit_layer)
    exited, later = gate(-math.inf, exited=MIXED, exit_layer=exit_layer)
    assert exited.all()
    assert torch.equal(later, torch.where(MIXED, 1, LAYER).to(torch.int32))
    assert later.dtype == torch.int32


# --- attention ---

HEADS, KV_HEADS, DIM, SLOTS = 4, 2, 8, 12
PAST = torch.tensor([5, 0], dtype=torch.int32)
Q = random(BATCH, SEQ, HEADS * DIM)
KEYS, VALUES = (random(BATCH, SEQ, KV_HEADS * DIM, seed=seed) for seed in (1, 2))
# Slots past a row's end hold large values: whoever reads one shows it.
CACHES = tuple(100 * random(BATCH, KV_HEADS, SLOTS, DIM, seed=seed) for seed in (3, 4))
ANGLES = torch.arange(SLOTS)[:, None] * torch.tensor([1.0, 0.3, 0.1, 0.03])
TABLES = (ANGLES.cos(), ANGLES.sin())
SCALE = 0.3
# Frequencies, window (0: none), soft cap (0: none).
ATTENTIONS = {
    "plain": (4, 0, 0.0),
    "window": (4, 3, 0.0),
    "window of one": (4, 1, 0.0),
    "soft cap": (4, 0, 1.5),
    "window and soft cap": (4, 3, 1.5),
    "partial rotary": (2, 0, 0.0),
    "no rotary": (0, 0, 0.0),
}


def attention_arguments(frequencies: int, window: int, softcap: float) -> tuple:
    tables = tuple(table[:, :frequencies] for table in TABLES) if frequencies else (None, None)
    return (Q, KEYS, VALUES, *CACHES, PAST, *tables, HEADS, KV_HEADS, SCALE, window, softcap)


def turned(vector: Tensor, position: int, frequencies: int) -> Tensor:
    """Rotary embedding of one head's [DIM] as complex numbers: halves are real and imaginary."""
    real, imaginary = vector[:frequencies], vector[frequencies : 2 * frequencies]
    angles = ANGLES[position, :frequencies]
    spun = torch.complex(real, imaginary) * torch.polar(torch.ones(frequencies), angles)
    return torch.cat((spun.real, spun.imag, vector[2 * frequencies :]))


@pytest.mark.parametrize("kind", ATTENTIONS.values(), ids=ATTENTIONS)
def test_attention_of_ragged_rows_by_the_plain_formula(kind):
    """Unlike past lengths, several tokens over a filled cache, two heads a key."""
    frequencies, window, softcap = kind
    out, k_cache, v_cache = OPS.attention(*attention_arguments(*kind))
    q, k, v = (tensor.view(BATCH, SEQ, -1, DIM) for tensor in (Q, KEYS, VALUES))
    for row in range(BATCH):
        past = int(PAST[row])
        for head in range(HEADS):
            shared = head // (HEADS // KV_HEADS)
            old_k, old_v = CACHES[0][row, shared, :past], CACHES[1][row, shared, :past]
            new_k = torch.stack(
                [turned(k[row, i, shared], past + i, frequencies) for i in range(SEQ)]
            )
            all_k, all_v = torch.cat((old_k, new_k)), torch.cat((old_v, v[row, :, shared]))
            assert torch.allclose(k_cache[row, shared, : past + SEQ], all_k, atol=1e-5)
            assert torch.equal(v_cache[row, shared, : past + SEQ], all_v)
            for i in range(SEQ):
                end = past + i + 1
                seen = slice(max(0, end - window) if window else 0, end)
                logits = all_k[seen] @ turned(q[row, i, head], past + i, frequencies) * SCALE
                if softcap:
                    logits = (logits / softcap).tanh() * softcap
                expected = logits.softmax(0) @ all_v[seen]
                found = out[row, i, head * DIM : (head + 1) * DIM]
                torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_attention_writes_its_slots_only():
    _, *updated = OPS.attention(*attention_arguments(*ATTENTIONS["plain"]))
    for cache, before in zip(updated, CACHES, strict=True):
        for row in range(BATCH):
            past = int(PAST[row])
            kept = [slot for slot in range(SLOTS) if not past <= slot < past + SEQ]
            assert torch.equal(cache[row, :, kept], before[row, :, kept])


# --- what torch itself asks of an operator: schema, fake kernel, tracing ---


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_opcheck_linear(parts):
    torch.library.opcheck(OPS.linear.default, (X, MIXED, WEIGHT, QWEIGHT, SCALES, *parts))


@pytest.mark.parametrize("kind", ["window and soft cap", "no rotary"])
def test_opcheck_attention(kind):
    torch.library.opcheck(OPS.attention.default, attention_arguments(*ATTENTIONS[kind]))


@pytest.mark.parametrize("scope", [0, 1, 2])
def test_opcheck_gate(scope):
    numbers = (torch.tensor(0.1), torch.tensor(scope, dtype=torch.int32), LAYER)
    arguments = (H_IN, H_OUT, DIRECTION, torch.tensor(True), NONE_EXITED, NEVER, *numbers)
    torch.library.opcheck(OPS.gate.default, arguments)
