"""SmolLM2: the perplexity of the parallel pass is the perplexity of decoding token by token."""

import importlib.util

import numpy as np
import pytest

import river_trt
from builders.build import BuildOptions, build
from builders.calibration_text import BUILT_IN
from builders.checkpoints.demo import INSTALL, PACKAGE
from builders.evaluation.results import NamedPolicy, summarise
from builders.evaluation.scores import POLICY_ROW, score
from builders.evaluation.subject import EngineSubject
from builders.evaluation.text import TextOptions, read_pieces
from river_trt.spec import ExitPolicy
from tests.builders.tiny_engines import policy

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(
        importlib.util.find_spec(PACKAGE) is None,
        reason=f"the demo model is not installed: {INSTALL}",
    ),
]

LAYERS, SKIP = 30, 8
OPTIONS = TextOptions(BUILT_IN, pieces=2, piece_tokens=48, skip=SKIP)


@pytest.fixture(scope="module")
def subject(tmp_path_factory) -> EngineSubject:
    """RTN, because it is quick; float32 activations, whose rounding no shape of a step changes."""
    directory = tmp_path_factory.mktemp("demo") / "engine"
    options = BuildOptions(
        "demo", directory, quantiser="rtn", river_activation="float32", calibrate=False
    )
    build(options)
    engine = river_trt.load(directory, max_batch_size=2, max_seq_len=64, verify=False)
    return EngineSubject(engine)


@pytest.fixture(scope="module")
def pieces(subject) -> list[np.ndarray]:
    return read_pieces(subject, OPTIONS)


@pytest.mark.parametrize(
    "chosen",
    [
        ExitPolicy.full_depth(LAYERS),
        policy(LAYERS, 0.97),
        policy(LAYERS, 0.97, (LAYERS,)),
        ExitPolicy.uniform(LAYERS, -np.inf),
    ],
    ids=["full depth", "paper", "pinned", "all river"],
)
def test_perplexity_is_that_of_decoding_token_by_token(subject, pieces, chosen):
    scores = score(subject, pieces, [chosen], SKIP, lambda *_: None)[0]
    result = summarise(NamedPolicy("", chosen), scores)
    nats, exits = [], []
    for ids in pieces:
        for position in range(len(ids) - 1):
            logits, exit_layer = subject.step(
                POLICY_ROW, position, ids[position : position + 1], chosen
            )
            if position >= SKIP:
                row = logits[0].astype(np.float64)
                log_total = row.max() + np.log(np.exp(row - row.max()).sum())
                nats.append(log_total - row[ids[position + 1]])
                exits.append(int(exit_layer[0]))
    assert result.positions == len(nats) == sum(len(ids) - 1 - SKIP for ids in pieces)
    assert result.perplexity.value == pytest.approx(np.exp(np.mean(nats)), rel=1e-4)
    assert result.exit_counts == tuple(np.bincount(exits, minlength=LAYERS + 1)[1:])


def test_keys_and_values_of_the_river_stay_near_the_backbones(subject, pieces):
    """The paper reports more than 0.97 for its models; this one's values are a little below."""
    river = ExitPolicy.uniform(LAYERS, -np.inf)
    scores = score(subject, pieces, [river], SKIP, lambda *_: None)[0]
    result = summarise(NamedPolicy("all river", river), scores)
    assert min(result.k_cosine) > 0.95 and np.mean(result.v_cosine) > 0.9
    assert result.v_cosine[0] == pytest.approx(1, abs=1e-6) and min(result.v_cosine) < 0.999
