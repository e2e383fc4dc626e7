"""`river-trt build --backend tensorrt-llm`: who may build, and what an engine directory holds."""

import json
import os
import subprocess
import sys

import pytest

import river_trt
from builders.tensorrt_llm import engines
from river_trt.cli.main import main
from river_trt.engine_dir import read_engine_dir
from river_trt.errors import EngineError, RiverError
from tests.builders.families.tiny_models import TINY_MODELS, save_tiny_model
from tests.builders.tensorrt_llm.conversions import convert
from tests.builders.tensorrt_llm.double import executor
from tests.builders.tensorrt_llm.double.install import installed
from tests.builders.tiny_engines import policy
from tests.builders.tiny_llama import save_tiny_llama, save_word_tokenizer

INSTALL = 'pip install "tensorrt-llm==1.2.1" --extra-index-url https://pypi.nvidia.com'


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """head_dim 32, the least that gpt_attention takes."""
    directory = tmp_path_factory.mktemp("model")
    save_tiny_llama(directory, hidden_size=128)
    save_word_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "checkpoint"
    return convert(model, out, 2, policy(2, 0.9))


@pytest.fixture
def tensorrt_llm(monkeypatch, tmp_path):
    """Says that a version of tensorrt_llm is installed."""

    def install(version: str) -> None:
        info = tmp_path / "site" / f"tensorrt_llm-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Name: tensorrt_llm\nVersion: {version}\n")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

    return install


def build(capsys, tmp_path, model, *options) -> tuple[int, str]:
    capsys.readouterr()
    arguments = ["build", "--backend", "tensorrt-llm", "--model", str(model)]
    code = main([*arguments, "--out", str(tmp_path / "engine"), *options])
    return code, capsys.readouterr().err.strip()


@pytest.mark.parametrize("what", ["model", "checkpoint"])
def test_without_tensorrt_llm(capsys, tmp_path, request, what):
    code, error = build(capsys, tmp_path, request.getfixturevalue(what))
    assert code == 2 and error == (
        "error: the backend tensorrt-llm needs tensorrt_llm 1.2.x, which is not installed: "
        + INSTALL
    )
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("what", ["model", "checkpoint"])
@pytest.mark.parametrize("version", ["0.21.0", "1.1.0", "1.20.0", "1.3.0rc21"])
def test_with_the_wrong_version(capsys, tmp_path, request, tensorrt_llm, what, version):
    tensorrt_llm(version)
    code, error = build(capsys, tmp_path, request.getfixturevalue(what))
    assert code == 2 and error == (
        f"error: the backend tensorrt-llm needs tensorrt_llm 1.2.x, but {version} is installed: "
        + INSTALL
    )
    assert not (tmp_path / "engine").exists()


def test_the_checkpoint_becomes_an_engine_directory(
    capsys, tmp_path, checkpoint, tensorrt_llm, monkeypatch
):
    monkeypatch.setenv("RIVER_TRT_PLUGIN", __file__)
    tensorrt_llm("1.2.1")
    with installed() as tensorrt:
        code, error = build(capsys, tmp_path, checkpoint)
        assert tensorrt.get_plugin_registry().libraries == [__file__]
    assert code == 0, error
    engine, before = tmp_path / "engine", read_engine_dir(checkpoint)
    manifest = read_engine_dir(engine)  # hashes are right
    built = {"config.json", "rank0.engine", "rank1.engine"}
    assert set(manifest.files) == built | {"generation_config.json", "tokenizer.json"}
    backend = manifest.backend
    assert (backend.name, backend.version, backend.target) == ("tensorrt-llm", "1.2.1", "tp2")
    assert backend.compute_capability == "9.0" and manifest.engine_file == "rank0.engine"
    assert (manifest.policy, manifest.model) == (before.policy, before.model)
    config = json.loads((engine / "config.json").read_text())["pretrained_config"]
    assert config["river"] == json.loads((checkpoint / "config.json").read_text())["river"]


def test_a_model_is_converted_and_built_in_one_go(
    capsys, tmp_path, model, tensorrt_llm, monkeypatch
):
    monkeypatch.setenv("RIVER_TRT_PLUGIN", __file__)
    tensorrt_llm("1.2.1")
    with installed():
        code, error = build(capsys, tmp_path, model, "--quantiser", "rtn", "--tau", "0.5")
        assert code == 0, error
        manifest = read_engine_dir(tmp_path / "engine")
        assert manifest.policy.tau == (0.5, 0.5)
        assert [path.name for path in tmp_path.glob("*checkpoint*")] == []
        engine = river_trt.load(tmp_path / "engine", max_batch_size=2)
        result = engine.generate([1, 2, 3], river_trt.GenerationConfig(max_new_tokens=4))[0]
        assert result.token_ids == [6, 12, 24, 48] and result.exit_layers.tolist() == [2, 1, 2, 1]
        assert executor.OPENED[-1].config.max_batch_size == 2


@pytest.mark.parametrize("family", TINY_MODELS)
def test_every_family_is_built(tmp_path, tensorrt_llm, monkeypatch, family):
    """Windowed ones too, whose runtime_defaults must survive copies and config.json."""
    monkeypatch.setenv("RIVER_TRT_PLUGIN", __file__)
    monkeypatch.setattr(engines, "HEAD_SIZES", (*engines.HEAD_SIZES, 8, 16))
    monkeypatch.setattr(engines, "CAPPED_HEAD_SIZES", (8, 16))
    tensorrt_llm("1.2.1")
    model = TINY_MODELS[family]
    save_tiny_model(tmp_path / "model", model)
    checkpoint = convert(tmp_path / "model", tmp_path / "checkpoint", 2)
    (tmp_path / "engine").mkdir()
    with installed():
        engines.build_engine_dir(checkpoint, tmp_path / "engine", lambda *_: None)
    built = json.loads((tmp_path / "engine" / "config.json").read_text())["pretrained_config"]
    converted = json.loads((checkpoint / "config.json").read_text())
    assert built["river"] == converted["river"]
    assert (built.get("runtime_defaults") or None) == converted.get("runtime_defaults")


def test_a_plugin_library_that_cannot_be_loaded(tmp_path, tensorrt_llm, monkeypatch, checkpoint):
    library = tmp_path / "broken.so"
    library.write_bytes(b"")
    monkeypatch.setenv("RIVER_TRT_PLUGIN", str(library))
    tensorrt_llm("1.2.1")
    (tmp_path / "engine").mkdir()
    with installed(), pytest.raises(EngineError, match=r"cannot load the plugin library .*broken"):
        engines.build_engine_dir(checkpoint, tmp_path / "engine", lambda *_: None)


@pytest.mark.parametrize("head_dim", [40, 72])
def test_heads_that_its_attention_has_no_kernel_for(capsys, tmp_path, tensorrt_llm, head_dim):
    save_tiny_llama(tmp_path / "model", hidden_size=4 * head_dim)
    convert(tmp_path / "model", tmp_path / "checkpoint")
    tensorrt_llm("1.2.1")
    code, error = build(capsys, tmp_path, tmp_path / "checkpoint")
    assert code == 2 and f"has a head_dim of {head_dim}, but" in error


def test_a_soft_cap_where_its_attention_has_none(capsys, tmp_path, tensorrt_llm, monkeypatch):
    monkeypatch.setattr(engines, "HEAD_SIZES", (8, 16, *engines.HEAD_SIZES))
    save_tiny_model(tmp_path / "model", TINY_MODELS["gemma2"])
    convert(tmp_path / "model", tmp_path / "checkpoint", dtype="bfloat16")
    tensorrt_llm("1.2.1")
    code, error = build(capsys, tmp_path, tmp_path / "checkpoint")
    assert code == 2 and "caps its attention scores at a head_dim of" in error


def test_what_the_conversion_decided_is_no_option(capsys, tmp_path, checkpoint):
    code, error = build(capsys, tmp_path, checkpoint, "--tau", "0.5")
    assert code == 2 and "tau was decided when" in error and "\n" not in error


def test_a_small_head_is_refused_before_a_build(tmp_path, capsys, tensorrt_llm):
    save_tiny_llama(tmp_path / "small", hidden_size=64)
    convert(tmp_path / "small", tmp_path / "checkpoint")
    tensorrt_llm("1.2.1")
    code, error = build(capsys, tmp_path, tmp_path / "checkpoint")
    assert code == 2 and "has a head_dim of 16, but TensorRT-LLM's attention takes 32, 48" in error


def test_a_checkpoint_is_no_engine(checkpoint):
    with pytest.raises(EngineError, match="is a TensorRT-LLM checkpoint, not an engine yet"):
        river_trt.load(checkpoint)


def test_a_policy_is_not_applied_to_what_has_it_built_in(checkpoint, capsys):
    saved = checkpoint.with_suffix(".policy.json")
    assert main(["calibrate", str(checkpoint), "--apply", str(saved)]) == 2
    assert "the policy is a constant of a TensorRT-LLM engine" in capsys.readouterr().err


@pytest.mark.parametrize("options", [{"banks": "river"}, {"lm_head_bits": 4}, {"dtype": "float32"}])
def test_options_that_tensorrt_llm_has_not(model, tmp_path, options):
    with pytest.raises(RiverError, match="offered"):
        convert(model, tmp_path / "checkpoint", **options)
    assert not (tmp_path / "checkpoint").exists()


BLOCKED = ("transformers", "huggingface_hub", "onnxruntime", "onnx", "onnxscript", "gguf", "hqq")
SCRIPT = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None  # importing it is an ImportError
from river_trt.backends import tensorrt_llm
from river_trt.cli.main import main
from tests.builders.tensorrt_llm.double.install import installed
tensorrt_llm.version = lambda name: "1.2.1"
with installed():
    sys.exit(main(["build", "--model", sys.argv[1], "--out", sys.argv[2]]))
"""


def test_the_second_environment_has_not_what_the_first_needs(tmp_path, checkpoint):
    """TensorRT-LLM pins versions that rule out river-trt[build]: nothing of it may be imported."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(blocked=BLOCKED), checkpoint, tmp_path / "engine"],
        capture_output=True,
        text=True,
        env=os.environ | {"RIVER_TRT_PLUGIN": __file__, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert "rank1.engine" in read_engine_dir(tmp_path / "engine").files
