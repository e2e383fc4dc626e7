"""The Dockerfile, read as docker would: what it copies is there, and what it starts exists."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import river_trt
from river_trt.cli import serve
from river_trt.cli.command import make_parser

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def steps() -> list[tuple[str, str]]:
    """Instructions and what follows them, of all stages."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def last(steps: list[tuple[str, str]], name: str) -> str:
    return [rest for found, rest in steps if found == name][-1]


def test_the_image_is_slim_and_runs_as_a_user_of_its_own(steps):
    bases = [rest.split()[0] for name, rest in steps if name == "FROM"]
    assert bases == ["python:3.12-slim"] * 2
    own = steps[[name for name, _ in steps].index("FROM", 1) :]
    assert not any("apt-get" in rest for _, rest in own), "no compiler in what is shipped"
    assert last(own, "USER") == "river" and "useradd --create-home --uid 1000 river" in str(own)


def test_what_is_copied_makes_a_wheel(steps, tmp_path):
    """Of the files that .dockerignore lets through, and no others."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    assert patterns[0] == "*" and last(steps, "COPY") == ". /source"
    names = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    for name in names:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tmp_path / name)
    (command,) = (rest for name, rest in steps if name == "RUN" and "pip wheel" in rest)
    assert command.startswith("RIVER_TRT_PREBUILT=1 pip wheel ")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*pip, "--wheel-dir", tmp_path / "wheel", tmp_path],
        env=os.environ | {"RIVER_TRT_PREBUILT": "1"},
        check=True,
    )
    (wheel,) = (tmp_path / "wheel").iterdir()
    assert wheel.match(f"river_trt-{river_trt.__version__}-py3-none-linux_*.whl")


def test_what_it_starts_exists_and_answers_where_its_health_is_asked(steps):
    assert json.loads(last(steps, "ENTRYPOINT")) == ["river-trt"]
    argv = json.loads(last(steps, "CMD"))
    args = make_parser("river-trt", "", "", [serve.COMMAND], argv).parse_args(argv)
    assert (args.engine, args.host, args.port) == ("/engine", "0.0.0.0", 8000)
    assert last(steps, "EXPOSE") == str(args.port)
    (port, path) = re.search(r"127\.0\.0\.1:(\d+)(/\w+)", last(steps, "HEALTHCHECK")).groups()
    routes = (ROOT / "river_trt/openai/routes.py").read_text(encoding="utf-8")
    assert port == str(args.port) and f'"{path}"' in routes
