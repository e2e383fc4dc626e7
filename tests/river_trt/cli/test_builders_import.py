"""Another package of the name `builders` is named, not blamed on a missing extra."""

import sys

import pytest

from river_trt.cli.builders_import import needs_extra
from river_trt.errors import RiverError


def test_another_package_called_builders_is_named(tmp_path, monkeypatch):
    other = tmp_path / "builders" / "__init__.py"
    other.parent.mkdir()
    other.touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "builders", raising=False)
    message = f"{other} hides river-trt's package `builders`"
    with pytest.raises(RiverError, match=message), needs_extra("building", "build"):
        pytest.fail("the work was begun")
