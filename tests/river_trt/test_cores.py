"""Threads by what the system gives: affinity, hardware threads, quotas of either version."""

import os

import pytest

from river_trt.cores import cpu_quota, physical_cores, usable_cores


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_hardware_threads_of_a_core_count_once(tmp_path):
    for number in range(4):
        write(tmp_path / f"cpu{number}/topology/thread_siblings_list", f"{number % 2},{2}\n")
    assert physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert physical_cores({0, 2}, tmp_path) == 1
    assert physical_cores({7, 8}, tmp_path) == 2, "the system does not say"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"a/b/cpu.max": "max 100000\n"}, None),
        ({"a/b/cpu.max": "250000 100000\n"}, 2.5),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),  # of one above
        ({"cpu.max": "100000 100000\n"}, 1.0),  # a container's own is its root
        ({"a/b/cpu.max": "many 100000\n"}, None),
    ],
)
def test_quota_of_version_2(tmp_path, files, expected):
    write(tmp_path / "membership", "0::/a/b\n")
    for name, text in files.items():
        write(tmp_path / "groups" / name, text)
    assert cpu_quota(tmp_path / "membership", tmp_path / "groups") == expected


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3.0), ("-1", None)])
def test_quota_of_version_1(tmp_path, quota, expected):
    write(tmp_path / "membership", "4:memory:/x\n3:cpu,cpuacct:/x\n")
    write(tmp_path / "groups/cpu,cpuacct/x/cpu.cfs_quota_us", f"{quota}\n")
    write(tmp_path / "groups/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n")
    assert cpu_quota(tmp_path / "membership", tmp_path / "groups") == expected


@pytest.mark.parametrize(("quota", "expected"), [(None, 3), (2.5, 2), (0.4, 1), (8.0, 3)])
def test_usable_cores_are_the_fewer(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {900, 901, 902}, raising=False)
    monkeypatch.setattr("river_trt.cores.cpu_quota", lambda: quota)
    assert usable_cores() == expected
