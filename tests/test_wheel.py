"""What a wheel installs: two packages and nothing beside them, with recipes and native sources."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from builders.recipes import known_recipes

ROOT = Path(__file__).parents[1]
READ_A_RECIPE = """
import builders.recipes, river_trt.plugin.sources
recipe = builders.recipes.load_recipe("a100", {})
print(builders.recipes.__file__, *sorted(builders.recipes.known_recipes().values()), sep="\\n")
print(recipe.target, river_trt.plugin.sources.source_directory(), sep="\\n")
"""


@pytest.fixture(scope="module")
def unzipped(tmp_path_factory) -> Path:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed (extra `test`)")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, ROOT], check=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    target = folder / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def test_nothing_lies_beside_the_two_packages(unzipped):
    names = {path.name for path in unzipped.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"builders", "river_trt"}


def test_an_installed_wheel_reads_its_own_recipes_and_sources(unzipped, tmp_path):
    """In another directory, so that nothing of the checkout can answer."""
    environment = os.environ | {"PYTHONPATH": str(unzipped)}
    command = [sys.executable, "-c", READ_A_RECIPE]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    module, *files, target, sources = done.stdout.splitlines()
    assert Path(module) == unzipped / "builders" / "recipes.py"
    assert {Path(file).parent for file in files} == {unzipped / "builders" / "_recipes"}
    assert {Path(file).stem for file in files} == set(known_recipes())
    assert target == "a100"
    assert Path(sources) == unzipped / "river_trt" / "_plugin_sources"


def test_a_checkout_reads_the_folder_engines():
    """An editable install reads the same: its packages lie in the checkout."""
    assert {file.parent for file in known_recipes().values()} == {ROOT / "engines"}
