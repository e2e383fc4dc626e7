import json

import numpy as np
import pytest

from river_trt.cli.console import format_bytes, format_layers
from river_trt.cli.inspect import describe_sampling, summarise_tau
from river_trt.cli.main import main
from river_trt.manifest import ByteCounts, DraftInfo, SamplingInfo, TextInfo


def test_shows_what_is_in_the_engine(capsys, make_directory):
    directory = make_directory(
        bytes_per_layer=ByteCounts(10_000_000, 2_000_000, 500_000, 0),
        draft=DraftInfo((4,), "found on wiki.txt"),
        text=TextInfo({}, SamplingInfo(0.6, top_p=0.9)),
    )
    assert main(["inspect", str(directory)]) == 0
    out = capsys.readouterr().out
    for text in (
        "fake (llama)",
        "4 layers, hidden 8",
        "onnxruntime 1.20.0, target cpu",
        "4 bits, 2.00 MB a layer; rtn, groups of 32, symmetric, int8 inputs",
        "similarity",
        "-inf to 0.9, by layer; no exit after 1",
        "1, 3",
        "pinned 4; found on wiki.txt",
        "40.5 MB a token at full depth, 16.5 MB all river (2.5x fewer)",
        "token ids 257",
        "temperature 0.6, top_p 0.9",
        "model.onnx",
        "verified",
    ):
        assert text in out


def test_layers_are_listed(capsys, directory):
    assert main(["inspect", str(directory), "--layers"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["2", "0.5", "backbone,", "or", "river", "once", "exited"] in lines
    assert ["3", "0.9", "backbone", "(pinned)"] in lines


def test_json_has_the_manifest(capsys, directory):
    assert main(["inspect", "--engine", str(directory), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["manifest"] == json.loads((directory / "manifest.json").read_text())
    assert result["bytes_per_token"] == {"full_depth": 408, "all_river": 138}
    assert result["verified"] is True


def test_no_verify_does_not_read_the_files(capsys, directory):
    damage(directory)
    assert main(["inspect", str(directory), "--no-verify"]) == 0
    assert "not verified" in capsys.readouterr().out


def damage(directory):
    (directory / "model.data").write_bytes(bytes(999) + b"\1")


def rewrite_manifest(directory, change):
    file = directory / "manifest.json"
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))


@pytest.mark.parametrize("command", [["inspect"], ["run", "--prompt", "a"], ["bench"]])
def test_bad_engines_are_one_line(directory, refused, tmp_path, command):
    name, *options = command

    def message(path=directory):
        return refused(name, path, *options)

    assert "is not a directory" in message(tmp_path / "missing")
    assert "holds no manifest.json" in message(tmp_path)
    good = (directory / "manifest.json").read_text()
    damage(directory)
    assert "model.data is damaged" in message()
    (directory / "model.data").write_bytes(bytes(1000))
    rewrite_manifest(directory, lambda data: data.update(schema_version=5))
    assert "manifest schema 5" in message()
    rewrite_manifest(directory, lambda data: data.update(schema_version=2, speed=1))
    assert "unknown key speed" in message()
    (directory / "manifest.json").write_text(good)
    entry = {"size": 0, "sha256": ""}
    rewrite_manifest(directory, lambda data: data["files"].update({"../outside": entry}))
    assert "leaves the engine directory" in message()
    (directory / "manifest.json").write_text("{")
    assert "not valid JSON" in message()


@pytest.mark.parametrize(
    ("tau", "text"),
    [
        ((np.inf, np.inf), "inf: never exits, the plain model"),
        ((-np.inf, -np.inf), "-inf after every layer"),
        ((0.97, 0.97), "0.97 after every layer"),
        ((np.inf, 0.9, 0.97, np.inf, np.inf), "0.9 to 0.97, by layer; no exit after 1, 4-5"),
        ((0.9, np.inf), "0.9; no exit after 2"),
    ],
)
def test_tau_in_one_line(tau, text):
    assert summarise_tau(tau) == text


def test_sizes_and_layers_read_well():
    sizes = [0, 999, 1000, 14_150_000, 134_515_008, 16_060_000_000]
    assert [format_bytes(size) for size in sizes] == [
        "0 B",
        "999 B",
        "1.00 kB",
        "14.2 MB",
        "135 MB",
        "16.1 GB",
    ]
    assert format_layers([1, 2, 3, 7, 29, 30]) == "1-3, 7, 29-30"
    assert format_layers([]) == "none"


def test_sampling_in_words():
    assert describe_sampling(SamplingInfo()) == "greedy"
    assert describe_sampling(SamplingInfo(0.0, 20, 0.9)) == "greedy, else top_k 20, top_p 0.9"
    assert describe_sampling(SamplingInfo(1.0)) == "temperature 1"
