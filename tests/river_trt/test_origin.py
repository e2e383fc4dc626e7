"""What a message tells people to type is what installed this build."""

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from river_trt.cli.builders_import import needs_extra
from river_trt.errors import MissingDependencyError
from river_trt.origin import Origin, this_build

WHEEL = "file:///downloads/river_trt-0.2.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("direct_url", "install", "upgrade"),
    [
        (
            {"url": "file:///a%20clone", "dir_info": {"editable": True}},
            'pip install -e "/a clone[build]"',
            "`git -C '/a clone' pull`",
        ),
        (
            {"url": "file:///clone", "dir_info": {}},
            'pip install "/clone[build]"',
            "`git -C /clone pull && pip install /clone`",
        ),
        (
            {"url": WHEEL, "archive_info": {}},
            f'pip install "river-trt[build] @ {WHEEL}"',
            "`pip install` and a newer file than river_trt-0.2.0-py3-none-any.whl",
        ),
        (
            {"url": "https://host/r.git", "vcs_info": {"vcs": "git", "commit_id": "0"}},
            'pip install "river-trt[build] @ git+https://host/r.git"',
            '`pip install -U "river-trt @ git+https://host/r.git"`',
        ),
        (None, 'pip install "river-trt[build]"', "`pip install -U river-trt`"),
    ],
    ids=["editable", "folder", "wheel", "repository", "index"],
)
def test_commands_follow_from_what_pip_was_given(direct_url, install, upgrade):
    origin = Origin.of(direct_url)
    assert origin.install("build") == install
    assert origin.upgrade() == upgrade


def test_without_pip_the_sources_are_named(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("river_trt.origin.distribution", missing)
    this_build.cache_clear()
    try:
        command = this_build().install("serve")
    finally:
        this_build.cache_clear()
    assert command == f'pip install -e "{Path(__file__).parents[2]}[serve]"'


def test_messages_say_how_this_build_was_installed():
    with pytest.raises(MissingDependencyError) as caught, needs_extra("building", "build"):
        raise ImportError(name="torch")
    assert str(caught.value).endswith(this_build().install("build"))
