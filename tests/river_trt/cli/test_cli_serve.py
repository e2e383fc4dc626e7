"""`river-trt serve`: what it says before it serves, and a server from start to end."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import openai
import pytest

from river_trt.cli.main import main
from river_trt.cli.serve import named_engines
from river_trt.errors import RiverError
from river_trt.origin import this_build
from tests.builders.tiny_engines import build_pair


def refused(capsys, *argv: object) -> str:
    assert main(["serve", *map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err
    return " ".join(err.split())


def test_bad_input_is_one_sentence(capsys, tmp_path):
    assert "give one engine directory" in refused(capsys)
    assert "--port must be 0 to 65535, got 99999" in refused(capsys, "e", "--port", 99999)
    assert "cannot listen on 203.0.113.7:8000" in refused(capsys, "e", "--host", "203.0.113.7")
    assert "nothing" in refused(capsys, tmp_path / "nothing", "--port", 0)
    two = refused(capsys, "--engine", "a/e", "--engine", "b/e")
    assert "two engines are named e; give names: --engine NAME=DIR" in two


def test_engines_are_named_by_their_folder_or_as_said():
    assert named_engines(["x/small", "large=y/z"]) == {
        "small": Path("x/small"),
        "large": Path("y/z"),
    }
    assert named_engines(["a/b=c"]) == {"b=c": Path("a/b=c")}
    with pytest.raises(RiverError, match="two engines"):
        named_engines(["a=x", "a=y"])


def test_a_package_that_is_missing_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "river_trt.openai.server", raising=False)
    assert f"needs uvicorn, which is not installed: {this_build().install('serve')}" in refused(
        capsys, "engine", "--port", 0
    )


def test_a_server_from_start_to_end(tmp_path, capsys):
    pair = build_pair(tmp_path, with_tokenizer=True)
    engine = pair.directory
    unknown = refused(capsys, engine, "--port", 0, "--policy", "swift")
    assert "policy 'swift' is not one of this engine's: exact" in unknown
    command = [sys.executable, "-m", "river_trt", "serve", engine, "--port", "0", "--log-json"]
    command += ["--policy", "exact"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        seen = ""
        while (found := re.search(r"http://127.0.0.1:(\d+)/v1", seen)) is None:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        url = f"http://127.0.0.1:{found[1]}"
        for _ in range(200):  # the socket listens a moment later
            try:
                if httpx.get(f"{url}/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.05)
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        answer = client.completions.create(
            model=engine.name, prompt="a b", max_tokens=3, extra_body={"ignore_eos": True}
        )
        assert 1 <= answer.usage.completion_tokens <= 3
        assert answer.usage.river["mean_backbone_layers"] == pair.engine.num_layers
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=30)
        assert process.returncode in (0, -signal.SIGTERM), rest
        assert '"path": "/v1/completions", "status": 200' in rest and "Traceback" not in rest
    finally:
        process.kill()
