"""manifest.json and policy files that anyone can have written: a sentence, or what they say."""

import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from river_trt import EngineError, ExitPolicy, RiverError
from river_trt.cli.inspect import describe, facts
from river_trt.manifest import FileInfo, Manifest
from river_trt.policy_file import PolicyFile
from tests.fuzz.budget import fuzzing, report
from tests.fuzz.damage import WILD_VALUES

LEAVES = (
    st.sampled_from(WILD_VALUES)
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=20)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
# What is done at a place of the document: the place, by numbers that choose among the keys there.
CHANGES = st.lists(
    st.tuples(
        st.lists(st.integers(0, 40), min_size=1, max_size=4),
        st.sampled_from([0, 1, 2, 2, 2, 3, 3]),
        VALUES,
    ),
    min_size=1,
    max_size=3,
)


def changed(document: dict[str, Any], changes: list[tuple[list[int], int, Any]]) -> str:
    document = copy.deepcopy(document)
    for place, kind, given_value in changes:
        value = copy.deepcopy(given_value)  # or one change would change what another put there
        node: Any = document
        for number in place[:-1]:
            inner = [item for item in _items(node) if isinstance(item, dict | list) and item]
            node = inner[number % len(inner)] if inner else node
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[place[-1] % len(keys)] if keys else None
        if kind == 0 and isinstance(node, dict):
            node[str(value)[:20]] = value
        elif kind == 1 and key is not None:
            del node[key]
        elif (key is not None and kind == 2 and type(node[key]) is type(value)) or (
            key is not None and kind == 3
        ):
            node[key] = value
    return json.dumps(document)


def _items(node: Any) -> list[Any]:
    return list(node.values()) if isinstance(node, dict) else list(node)


def edited(text: str, edits: list[tuple[int, str]]) -> str:
    """The text itself changed, whatever it means."""
    for at, new in edits:
        place = at % (len(text) + 1)
        text = text[:place] + new + text[place + len(new) :]
    return text


EDITS = st.just([]) | st.lists(
    st.tuples(st.integers(0, 10**6), st.text(st.characters(codec="utf-8"), max_size=5)), max_size=4
)


def one_line(error: RiverError) -> str:
    assert "\n" not in str(error)
    return "refused"


def check_manifest(text: str) -> str:
    try:
        manifest = Manifest.from_json(text)
    except EngineError as error:
        return one_line(error)
    # What `inspect` and `load` do with it.
    facts(manifest)
    json.dumps(describe(Path("engine"), manifest))
    assert Manifest.from_json(manifest.to_json()) == manifest
    manifest.draft.to_policy(manifest.model.shape.num_layers)
    manifest.policy.to_policy(None)
    return "read"


def test_manifests(make_whole_manifest):
    text = make_whole_manifest.to_json()
    document, outcomes = json.loads(text), Counter()

    @fuzzing(800)
    @given(CHANGES, EDITS)
    def fuzz(changes, edits):
        outcomes[check_manifest(edited(changed(document, changes), edits))] += 1

    fuzz()
    report("manifests", outcomes.total(), f"{dict(outcomes)}")
    assert set(outcomes) == {"refused", "read"}


def test_policy_files(tmp_path):
    directions = np.eye(4, 8, dtype=np.float32)
    tau = np.array([np.inf, 0.5, -np.inf, 0.9], np.float32)
    whole = ExitPolicy(tau, np.array([True, False, False, True]), directions)
    path = tmp_path / "policy.json"
    PolicyFile("model", "0" * 64, "by hand", whole).write(path)
    document, outcomes = json.loads(path.read_text()), Counter()

    @fuzzing(500)
    @given(CHANGES, EDITS)
    def fuzz(changes, edits):
        path.write_text(edited(changed(document, changes), edits), encoding="utf-8")
        try:
            read = PolicyFile.read(path)
            read.check_model("0" * 64, 4, 8)
        except RiverError as error:
            outcomes[one_line(error)] += 1
        else:
            assert len(read.policy.tau) == 4
            outcomes["read"] += 1

    fuzz()
    report("policy files", outcomes.total(), f"{dict(outcomes)}")
    assert set(outcomes) == {"refused", "read"}


@pytest.fixture
def make_whole_manifest():
    from tests.river_trt.conftest import manifest_of

    return manifest_of(files={"model.onnx": FileInfo(5, "ab"), "model.data": FileInfo(7, "cd")})
