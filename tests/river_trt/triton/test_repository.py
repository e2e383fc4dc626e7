import dataclasses
import json
import os
import re

import pytest

from river_trt import EngineError, RiverError
from river_trt.cli.main import main
from river_trt.triton.config_pbtxt import config_pbtxt
from river_trt.triton.fields import TRTLLM, VLLM
from river_trt.triton.repository import ExportOptions, export
from river_trt.triton.settings import ModelSettings


def inputs_of(text):
    found = re.findall(r'name: "(\w+)" data_type: (\w+) dims: \[ (-?\d+) \]( optional)?', text)
    return {name: (kind, dims, bool(optional)) for name, kind, dims, optional in found}


@pytest.mark.parametrize("how", ["copy", "link", "reference"])
def test_exported_engine_is_whole(engine_directory, tmp_path, how):
    settings = ModelSettings(str(engine_directory), max_batch_size=3)
    model = export(ExportOptions(settings, tmp_path / "repo", "mine", how))
    assert model == tmp_path / "repo" / "mine"
    written = ModelSettings.read(model / "1")
    assert dataclasses.replace(written, engine="") == dataclasses.replace(settings, engine="")
    engine = model / "1" / written.engine
    names = {path.name for path in engine_directory.iterdir()}
    assert {path.name for path in engine.iterdir()} == names
    for name in names:
        assert (engine / name).read_bytes() == (engine_directory / name).read_bytes()
        assert (engine / name).samefile(engine_directory / name) == (how != "copy")
    assert sorted(path.name for path in model.parent.iterdir()) == ["mine", "run.sh"]
    assert os.access(model.parent / "run.sh", os.X_OK)


def test_layouts_have_the_tensors_that_their_clients_send():
    vllm = config_pbtxt("m", VLLM, 8, ())
    assert "max_batch_size: 0" in vllm and "KIND_CPU" in vllm and "decoupled: true" in vllm
    inputs = inputs_of(vllm)
    assert inputs["text_input"] == ("TYPE_STRING", "1", False)
    for name in ("stream", "exclude_input_in_output", "return_finish_reason"):
        assert inputs[name] == ("TYPE_BOOL", "1", True)
    assert inputs["sampling_parameters"] == ("TYPE_STRING", "1", True)
    assert inputs["num_output_tokens"][0] == "TYPE_UINT32"
    assert "max_tokens" not in inputs
    trtllm = config_pbtxt("m", TRTLLM, 8, (0,))
    assert "max_batch_size: 8" in trtllm and "KIND_GPU gpus: [ 0 ]" in trtllm
    inputs = inputs_of(trtllm)
    assert inputs["max_tokens"] == ("TYPE_INT32", "1", True)
    assert inputs["random_seed"] == ("TYPE_UINT64", "1", True)
    assert inputs["stop_words"] == inputs["bad_words"] == ("TYPE_STRING", "-1", True)
    assert "sampling_parameters" not in inputs


def test_broken_engine_leaves_nothing_behind(engine_directory, tmp_path):
    (engine_directory / "model.data").write_bytes(b"changed")
    with pytest.raises(EngineError, match="model.data"):
        export(ExportOptions(ModelSettings(str(engine_directory)), tmp_path / "repo"))
    assert not (tmp_path / "repo").exists()


def test_failing_copy_leaves_nothing_half_written(engine_directory, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        export(ExportOptions(ModelSettings(str(engine_directory)), tmp_path / "repo"))
    assert list((tmp_path / "repo").iterdir()) == []


def test_model_that_exists_is_not_overwritten(engine_directory, tmp_path):
    options = ExportOptions(ModelSettings(str(engine_directory)), tmp_path / "repo")
    export(options)
    with pytest.raises(RiverError, match="river_llm exists already"):
        export(options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "must hold an object"),
        ("{}", "must hold an object"),
        ('{"engine": "e", "colour": 1}', "must hold an object"),
        ('{"engine": "e", "max_batch_size": 0}', "max_batch_size must be"),
        ('{"engine": "e", "layout": "x"}', "layout must be one of vllm, trtllm, got 'x'"),
    ],
)
def test_bad_settings_file(tmp_path, text, message):
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(RiverError, match=message):
        ModelSettings.read(tmp_path)


def test_command_exports_with_its_options(engine_directory, tmp_path, capsys):
    out = tmp_path / "repo"
    options = "--layout trtllm --name m --engine-files reference --max-queue 5 --threads 2"
    arguments = ["triton", "export", "--engine", str(engine_directory), "--out", str(out)]
    assert main([*arguments, *options.split(), "--no-batch-invariant"]) == 0
    assert str(out / "m") in capsys.readouterr().out
    settings = json.loads((out / "m" / "1" / "model.json").read_text())
    assert settings["engine"] == str(engine_directory.resolve())
    assert (settings["layout"], settings["max_queue"], settings["threads"]) == ("trtllm", 5, 2)
    assert settings["batch_invariant"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "--engine", "nowhere", "--out", "x"], "nowhere"),
        (["export", "--engine", "e", "--out", "x", "--layout", "y"], "--layout"),
        (["export", "--engine", "e", "--out", "x", "--max-batch-size", "0"], "max_batch_size"),
        (["serve", "--repo", "nowhere"], "nowhere is no model repository"),
        ([], "ACTION"),
    ],
)
def test_bad_command_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["triton", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bad_name_is_refused():
    with pytest.raises(RiverError, match="name must be letters"):
        ExportOptions(ModelSettings("e"), None, name="../x")
