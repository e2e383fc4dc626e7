"""A build finds a policy, keeps to its budget, and says what it costs on other text."""

import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from builders.build import BuildOptions, build, policy_kind
from builders.calibration import at_build, texts
from builders.calibration.ladder import Ladder
from builders.calibration.named import held_out
from builders.calibration.texts import Texts
from builders.evaluation.results import NamedPolicy
from builders.evaluation.subject import EngineSubject
from river_trt import Engine, GenerationConfig, RiverError, load
from river_trt.cli.build import uncalibrated
from river_trt.cli.main import main
from river_trt.engine_dir import read_engine_dir
from river_trt.errors import RiverWarning
from tests.builders.tiny_engines import TINY
from tests.builders.tiny_llama import save_tiny_llama, save_word_tokenizer

LAYERS, TOKENS = 6, 32


def quiet(stage: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def words(tmp_path_factory):
    """In place of the built-in text, words that the tiny tokenizer knows."""
    folder = tmp_path_factory.mktemp("texts")
    random = np.random.default_rng(0)
    for kind in texts.KINDS:
        drawn = random.integers(0, 100, 8 * TOKENS)
        (folder / f"{kind}.txt").write_text(" ".join(f"w{word}" for word in drawn))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "FOLDER", folder)
        patch.setattr(texts, "PIECE_TOKENS", TOKENS)
        patch.setattr(texts, "SKIP", 4)
        patch.setattr(at_build, "SKIP", 4)
        yield


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    save_tiny_llama(directory, **(TINY | {"num_hidden_layers": LAYERS}))
    save_word_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def built(model, tmp_path_factory):
    """An engine with the default policy, and the stages of its build."""
    out = tmp_path_factory.mktemp("engine") / "engine"
    said: list[str] = []
    build(
        BuildOptions(str(model), out, quantiser="rtn"),
        lambda stage, done, total: said.append(stage),
        said.append,
    )
    return out, list(dict.fromkeys(said))


@pytest.fixture(scope="module")
def engine(built) -> Engine:
    return load(built[0], max_batch_size=2, max_seq_len=TOKENS)


def test_a_build_calibrates_and_says_what_it_found(built):
    out, (forecast, *stages) = built
    assert re.match(r"takes about .* here: quantising .*, calibrating .* \(--no-cal", forecast)
    searched = ["sensitivity", "hidden states", "static masks", "gates", "held-out text"]
    assert [stage for stage in stages if stage in searched] == searched
    policy = load(out, max_batch_size=1).manifest.policy
    assert policy.calibration is not None
    assert policy.calibration.startswith("KL 0.0")
    assert f"of {LAYERS} layers, " in policy.calibration
    assert "x fewer bytes than full depth, on held-out built-in text; for KL 0.05: " in (
        policy.calibration
    )


def test_the_engine_has_named_policies_with_their_figures(built, engine):
    manifest = engine.manifest
    assert [named.name for named in manifest.policies] == ["quality", "balanced", "fast"]
    depths = [named.backbone_layers for named in manifest.policies]
    assert depths == sorted(depths, reverse=True)
    assert list(engine.policies) == ["exact", "quality", "balanced", "fast"]
    np.testing.assert_array_equal(engine.policies["balanced"].tau, engine.policy.tau)
    ids = list(range(10))
    for name, policy in engine.policies.items():
        config = GenerationConfig(max_new_tokens=8, policy=name, ignore_eos=True)
        (got,) = engine.generate([ids], config)
        config = GenerationConfig(
            max_new_tokens=8,
            ignore_eos=True,
            tau=policy.tau.tolist(),
            pinned=(np.flatnonzero(policy.pinned) + 1).tolist(),
            policy=None if policy.directions is None else name,
        )
        assert got.token_ids == engine.generate([ids], config)[0].token_ids
    unknown = "policy 'swift' is not one of this engine's: exact, qual"
    with pytest.raises(RiverError, match=unknown):
        engine.generate([ids], GenerationConfig(policy="swift"))
    assert load(built[0], max_batch_size=1, policy="fast").policy.same_as(engine.policies["fast"])
    with pytest.raises(RiverError, match=unknown):
        load(built[0], policy="swift")


def test_all_policies_are_renewed_on_another_text(built, engine, tmp_path, capsys):
    out = shutil.copytree(built[0], tmp_path / "engine")
    text = tmp_path / "mine.txt"
    text.write_text(" ".join(f"w{word}" for word in np.random.default_rng(1).integers(0, 9, 600)))
    argv = ["calibrate", str(out), "--text", str(text), "--piece-tokens", str(TOKENS)]
    argv += ["--skip", "4", "--pieces", "10", "--named"]
    assert main(argv) == 0
    assert "on held-out mine.txt" in " ".join(capsys.readouterr().out.split())
    manifest = read_engine_dir(out)
    assert [named.name for named in manifest.policies] == ["quality", "balanced", "fast"]
    assert manifest.policy.calibration == manifest.policies[1].policy.calibration
    assert manifest.policy.calibration.startswith("KL 0.0")
    assert manifest.policy.calibration != engine.manifest.policy.calibration
    assert main([*argv, "--max-kl", "0.1"]) == 2
    assert "for their own budgets; leave --max-kl out" in capsys.readouterr().err


def test_drafts_have_the_mask_that_promises_most(built):
    draft = load(built[0], max_batch_size=1).manifest.draft
    assert draft.calibration is not None
    assert draft.calibration.startswith("at build, on built-in text: ")
    assert 1 not in draft.pinned and len(draft.pinned) < LAYERS - 1


def test_budgets_are_kept_on_the_text_of_the_search_and_cost_layers(engine):
    subject = EngineSubject(engine)
    read = Texts.read(subject.tokenizer, TOKENS)
    assert len(read.search) == len(read.kinds) == len(read.report) == 20
    costs = np.array([np.inf, *np.linspace(1, 2, LAYERS - 1)])
    ladder = Ladder(subject, costs, read.search, read.kinds, 4, quiet)
    (all_river,) = ladder.within([9.0])
    assert all_river.layers == 1 and all_river.description == "0 pinned, no gate"
    budgets = [all_river.kl / 2, all_river.kl / 4, 1e-7]
    half, quarter, nothing = ladder.within(budgets)
    assert 1 < half.layers < quarter.layers < nothing.layers == LAYERS
    assert half.kl <= budgets[0] and quarter.kl <= budgets[1]
    assert nothing.description == "full depth"
    policies = [NamedPolicy("", choice.policy) for choice in (half, quarter)]
    results = held_out(subject, read.report, policies, 4, quiet)
    assert [result.pieces for result in results] == [20, 20]
    for choice, result in zip((half, quarter), results, strict=True):
        assert result.backbone_layers.value == pytest.approx(choice.layers, abs=0.7)
        assert result.kl.value == pytest.approx(choice.kl, rel=0.5)


def test_an_engine_that_cannot_be_looked_into_has_the_reference_in_its_place(
    model, tmp_path, monkeypatch
):
    monkeypatch.setattr(at_build, "READABLE", ())
    manifest = build(BuildOptions(str(model), tmp_path / "e", quantiser="rtn", quality=0.1))
    assert manifest.policy.calibration is not None
    assert "for KL 0.1: " in manifest.policy.calibration
    monkeypatch.setattr(at_build, "available_memory", lambda: 1000)
    with pytest.warns(RiverWarning, match=r"calibrating needs about 0\.0 GB of memory and 0\.0 GB"):
        manifest = build(BuildOptions(str(model), tmp_path / "f", quantiser="rtn"))
    assert manifest.policy.calibration is None


def test_the_paper_s_policy_is_searched_for_too(model, tmp_path):
    manifest = build(BuildOptions(str(model), tmp_path / "e", quantiser="rtn", policy="paper"))
    assert manifest.policy.calibration is not None
    assert "for KL 0.05: similarity gate, tau " in manifest.policy.calibration
    assert manifest.policy.pinned == () and len(set(manifest.policy.tau)) == 1


def test_a_policy_by_hand_is_not_searched_for(model, tmp_path):
    for options in ({"calibrate": False}, {"tau": 0.5}, {"pinned": (1,)}, {"policy": Path("p")}):
        assert policy_kind(BuildOptions("demo", tmp_path, **options)) is None
    manifest = build(BuildOptions(str(model), tmp_path / "e", quantiser="rtn", policy="none"))
    assert set(manifest.policy.tau) == {np.inf} and manifest.policy.calibration is None


def test_without_a_tokenizer_there_is_nothing_to_read(tmp_path):
    save_tiny_llama(tmp_path / "model", **TINY)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RiverWarning)
        manifest = build(BuildOptions(str(tmp_path / "model"), tmp_path / "e", quantiser="rtn"))
    assert manifest.policy.calibration is None
    assert "not calibrated: tau 0.97" in uncalibrated(manifest)
    assert "the model has no tokenizer" in uncalibrated(manifest)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": 0.0}, "quality must be a KL above 0, got 0"),
        ({"quality": float("nan")}, "quality must be a KL above 0, got nan"),
        ({"quality": 0.1, "calibrate": False}, "--quality is what a calibrated policy may cost"),
        ({"quality": 0.1, "tau": 0.9}, "--quality is what a calibrated policy may cost"),
        ({"policy": "none", "tau": 0.9}, "has its own tau and pins"),
        ({"policy": "odd"}, "policy must be none, paper or a file, got 'odd'"),
        ({"policy": "paper", "calibrate": False}, "--policy paper is calibrated"),
    ],
)
def test_options_that_contradict_each_other(model, tmp_path, options, message):
    with pytest.raises(RiverError, match=message):
        build(BuildOptions(str(model), tmp_path / "e", **options))
    assert not (tmp_path / "e").exists()
