"""An engine takes another policy in place, and is whole at every moment."""

import dataclasses
import errno
from pathlib import Path

import numpy as np
import pytest

from river_trt import engine_dir
from river_trt.engine_dir import (
    NamedPolicy,
    hash_files,
    read_directions,
    read_engine_dir,
    read_policies,
    replace_draft,
    replace_policy,
)
from river_trt.errors import RiverError
from river_trt.manifest import DraftInfo
from river_trt.spec import ExitPolicy

HIDDEN = 8


@pytest.fixture
def directory(engine_directory: Path, make_manifest) -> Path:
    (engine_directory / "manifest.json").unlink()
    files = hash_files(engine_directory)
    engine_dir.write_manifest(engine_directory, make_manifest(True, files=files))
    return engine_directory


def direction_policy(seed: int) -> ExitPolicy:
    directions = np.random.default_rng(seed).normal(size=(4, HIDDEN)).astype(np.float32)
    return ExitPolicy(np.full(4, 0.5, np.float32), np.array([True, False, False, True]), directions)


def test_policy_directions_and_story_are_stored(directory):
    before = set(directory.iterdir())
    policy = direction_policy(0)
    replace_policy(directory, policy, "found on wiki.txt")
    manifest = read_engine_dir(directory)
    assert manifest.policy.calibration == "found on wiki.txt"
    found = manifest.policy.to_policy(read_directions(directory, manifest))
    np.testing.assert_array_equal(found.tau, policy.tau)
    np.testing.assert_array_equal(found.pinned, policy.pinned)
    np.testing.assert_array_equal(found.directions, policy.directions)
    assert len(set(directory.iterdir()) - before) == 1, "one new file, no temporary"


def named(name: str, policy: ExitPolicy) -> NamedPolicy:
    return NamedPolicy(name, policy, f"{name}, found", 0.05, 0.04, 0.9, 2.5)


def test_named_policies_come_and_go_with_their_directions(directory):
    before = set(directory.iterdir())
    shared, own = direction_policy(0), direction_policy(1)
    plain = ExitPolicy.uniform(4, 0.9)
    policies = [named("near", shared), named("far", own), named("plain", plain)]
    replace_policy(directory, shared, "found", policies)
    assert len(set(directory.iterdir()) - before) == 2, "one file for two of the same directions"
    manifest = read_engine_dir(directory)
    assert [p.policy.calibration for p in manifest.policies][1] == "far, found"
    found = read_policies(directory, manifest)
    assert list(found) == ["exact", "near", "far", "plain"]
    assert (found["exact"].tau == np.inf).all() and found["plain"].directions is None
    np.testing.assert_array_equal(found["far"].directions, own.directions)

    replace_policy(directory, plain, "by hand")  # the named ones stay, with what they need
    assert read_engine_dir(directory).policies == manifest.policies
    assert len(set(directory.iterdir()) - before) == 2
    replace_policy(directory, plain, "by hand", [])
    assert read_engine_dir(directory).policies == () and set(directory.iterdir()) == before


@pytest.mark.parametrize("names", [("near", "near"), ("exact",)])
def test_names_of_policies_differ(directory, names):
    policies = [named(name, ExitPolicy.uniform(4, 0.9)) for name in names]
    with pytest.raises(RiverError, match="the names in policies must differ, and none may be"):
        replace_policy(directory, ExitPolicy.uniform(4, 0.9), "found", policies)


def test_old_directions_go(directory):
    before = set(directory.iterdir())
    replace_policy(directory, direction_policy(0), "first")
    replace_policy(directory, direction_policy(1), "second")
    assert len(set(directory.iterdir()) - before) == 1
    replace_policy(directory, ExitPolicy.uniform(4, 0.9), "third")
    assert set(directory.iterdir()) == before
    assert read_engine_dir(directory).policy.gate == "similarity"


def test_same_directions_again_stay(directory):
    for story in ("first", "again"):
        replace_policy(directory, direction_policy(0), story)
    manifest = read_engine_dir(directory)
    assert (
        manifest.policy.calibration == "again" and read_directions(directory, manifest) is not None
    )


@pytest.mark.parametrize("fails", ["directions", "manifest"])
def test_full_disk_leaves_the_old_policy(directory, monkeypatch, fails):
    old, before = read_engine_dir(directory), set(directory.iterdir())
    write = engine_dir._write_whole

    def full(path: Path, data: bytes) -> None:
        if path.name.startswith(fails):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(engine_dir, "_write_whole", full)
    with pytest.raises(RiverError, match="cannot write the policy .*No space left"):
        replace_policy(directory, direction_policy(0), "new")
    assert read_engine_dir(directory) == old
    assert set(directory.iterdir()) == before


def test_replace_draft_keeps_everything_else(engine_directory):
    before = read_engine_dir(engine_directory)
    draft = DraftInfo((2, 4), "found on wiki.txt")
    changed = replace_draft(engine_directory, draft)
    assert changed == read_engine_dir(engine_directory)
    assert changed.draft == draft and changed == dataclasses.replace(before, draft=draft)
