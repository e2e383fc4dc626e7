import dataclasses
import json
import re
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

import numpy as np
import pytest

from river_trt import EngineError, ExitPolicy
from river_trt.manifest import (
    SCHEMA_VERSION,
    FileInfo,
    Manifest,
    PolicyInfo,
)
from river_trt.origin import this_build

FILES = {"model.onnx": FileInfo(5, "ab"), "directions.bin": FileInfo(1, "cd")}


@pytest.fixture
def manifest(make_manifest):
    return make_manifest(files=FILES)


def changed(manifest, path, value):
    """The manifest's JSON with the value at a dotted path replaced; ... removes it."""
    data = json.loads(manifest.to_json())
    *parents, key = path.split(".")
    node = data
    for parent in parents:
        node = node[parent]
    if value is ...:
        del node[key]
    else:
        node[key] = value
    return json.dumps(data)


def test_round_trip_keeps_infinities_and_is_plain_json(manifest):
    text = manifest.to_json()
    assert Manifest.from_json(text) == manifest
    assert json.loads(text)["policy"]["tau"] == ["inf", 0.5, 0.9, "-inf"]
    assert "Infinity" not in text


def test_newer_schema_says_upgrade_even_with_unknown_keys(manifest):
    data = json.loads(changed(manifest, "schema_version", SCHEMA_VERSION + 1)) | {"novelty": 1}
    upgrade = re.escape(this_build().upgrade())
    with pytest.raises(
        EngineError, match=f"is newer .*{SCHEMA_VERSION + 1}, .*upgrade with {upgrade}"
    ):
        Manifest.from_json(json.dumps(data))


def test_older_schema_says_both_numbers_and_rebuild_even_with_other_keys(manifest):
    data = json.loads(changed(manifest, "backend.version", ...)) | {"schema_version": 1}
    message = r"is older .* schema 1, and 2 is the earliest read here; .*trt build`$"
    with pytest.raises(EngineError, match=message):
        Manifest.from_json(json.dumps(data))


def test_engines_of_older_schemas_have_what_came_later_as_none(manifest):
    data = json.loads(manifest.to_json()) | {"schema_version": 3}
    del data["precision"]["river_head_bits"]
    del data["bytes_per_layer"]["river_head"], data["bytes_per_layer"]["both_heads"]
    assert Manifest.from_json(json.dumps(data)) == manifest
    del data["policies"]
    data["schema_version"] = 2
    assert Manifest.from_json(json.dumps(data)) == manifest
    with pytest.raises(EngineError, match=r"engine_file is missing"):
        Manifest.from_json(json.dumps({k: v for k, v in data.items() if k != "engine_file"}))


def keys_of(kind, prefix=""):
    """Every key that a manifest may have, dotted; a dictionary's own keys are data."""
    for name, hint in get_type_hints(kind).items():
        yield prefix + name
        if dataclasses.is_dataclass(hint):
            yield from keys_of(hint, f"{prefix}{name}.")
        if get_origin(hint) is dict:
            yield from keys_of(get_args(hint)[1], f"{prefix}{name}.*.")


def test_another_set_of_keys_is_another_schema():
    """Where this fails, raise SCHEMA_VERSION and add the new schema's keys; keep the old ones."""
    recorded = json.loads(Path(__file__).with_name("manifest_keys.json").read_text())
    assert sorted(keys_of(Manifest)) == recorded[str(SCHEMA_VERSION)]
    assert list(recorded) == [str(version) for version in range(1, SCHEMA_VERSION + 1)]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("novelty", 1, "unknown key novelty"),
        ("model.shape.novelty", 1, "unknown key model.shape.novelty"),
        ("backend.version", ..., "backend.version is missing"),
        ("schema_version", ..., "schema_version is missing"),
        ("schema_version", 0, "older than this river-trt: it has manifest schema 0"),
        ("schema_version", "1", "schema_version must be int"),
        ("backend.kernels", ..., "backend.kernels is missing"),
        ("model.shape.num_layers", "4", "model.shape.num_layers must be int"),
        ("model.shape.num_layers", True, "model.shape.num_layers must be int"),
        ("model.shape.num_layers", 0, "model.shape.num_layers must be at least 1"),
        ("model.eos_token_ids", [1, "2"], r"model.eos_token_ids\[1\] must be int"),
        ("precision.river_activation", "int4", "precision.river_activation must be"),
        ("policy.tau", [1.0], "policy.tau has 1 values for 4 layers"),
        ("policy.tau", "inf", "policy.tau must be"),
        ("policy.tau", ["nan", 1, 1, 1], r"policy.tau\[0\] must be float"),
        ("policy.pinned", [5], r"policy.pinned names a layer outside 1..4"),
        ("draft.pinned", [0], r"draft.pinned names a layer outside 1..4"),
        ("policy.directions_file", "directions.bin", "directions_file"),
        ("policy.gate", "direction", "directions_file"),
        ("engine_file", "other.onnx", "files does not list other.onnx"),
        ("model.name", "a\0b", r"model.name must be printable text, got .a.u0000b"),
        ("model.name", "\ud800", "model.name must be printable text"),
        ("model.name", "\x1b[2J", "model.name must be printable text"),
        ("files", {"a\nb": {"size": 0, "sha256": ""}}, "a key of files must be printable text"),
        ("model.shape.hidden_size", 10**12, "model.shape.hidden_size must be at most"),
        ("model.shape.num_layers", 10**300, "model.shape.num_layers must be at most"),
        ("model.shape.num_kv_heads", 3, "num_heads 2 must be a multiple of num_kv_heads 3"),
        ("model.eos_token_ids", [260], r"model.eos_token_ids\[0\] must be at most 259"),
        ("model.eos_token_ids", [-1], r"model.eos_token_ids\[0\] must be at least 0"),
        ("model.bos_token_id", 2**40, "model.bos_token_id must be at most 259"),
        ("model.num_parameters", -1, "model.num_parameters must be at least 0"),
        ("bytes_per_layer.lm_head", 10**30, "bytes_per_layer.lm_head must be at most"),
        ("bytes_per_layer.river_head", 5, "precision.river_head_bits, .*both_heads go together"),
        ("policy.tau", [1e60, 1, 1, 1], r"policy.tau\[0\] must fit float32, got 1e\+60"),
        ("policy.tau", [10**400, 1, 1, 1], r"policy.tau\[0\] must be float"),
        ("precision.kv_cache", "int3", "precision.kv_cache must be one of float32, float16"),
        ("files.model.onnx", {"size": 5}, "unknown key|missing|must be"),
    ],
)
def test_every_deviation_is_named(manifest, path, value, message):
    if path == "files.model.onnx":
        data = json.loads(manifest.to_json())
        data["files"]["model.onnx"] = value
        text = json.dumps(data)
    else:
        text = changed(manifest, path, value)
    with pytest.raises(EngineError, match=message) as error:
        Manifest.from_json(text)
    assert "river-trt build" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"schema_version": NaN}', "[" * 200_000, "1" * 5000, '{"a":' * 100_000],
    ids=lambda text: text[:20],
)
def test_text_that_is_no_manifest(text):
    with pytest.raises(EngineError, match=r"manifest\.json"):
        Manifest.from_json(text)


def test_policy_round_trip_numbers_layers_from_one():
    directions = np.ones((3, 2), np.float32)
    tau = np.array([np.inf, 0.1, -np.inf], np.float32)
    policy = ExitPolicy(tau, np.array([True, False, True]), directions)
    info = PolicyInfo.from_policy(policy, "directions.bin")
    assert (info.gate, info.pinned) == ("direction", (1, 3))
    back = info.to_policy(directions)
    assert np.array_equal(back.tau, tau)
    assert np.array_equal(back.pinned, policy.pinned)
    assert back.directions is directions


def test_bytes_per_token_mixes_the_banks(manifest):
    counts = manifest.bytes_per_layer
    assert counts.per_token(4, 4) == 4 * 100 + 8
    assert counts.per_token(1.5, 4) == 150 + 25 + 8
