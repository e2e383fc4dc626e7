"""What users get wrong, end to end: the real command line, the real builders, tiny models.

Each is one line on stderr that names the value and the rule, exit code 2, and nothing left behind.
"""

import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

import river_trt
from river_trt.cli.main import main
from river_trt.origin import this_build
from tests.builders.tiny_engines import TINY
from tests.builders.tiny_llama import save_tiny_llama

LAYERS = 2
STAGES = {"tracing", "quantising", "hashing"}  # progress where stderr is no terminal
WEIGHTS = "model.safetensors"

Damage = Callable[[Path], object]
Refused = Callable[..., str]


def edit_json(name: str, **changes: Any) -> Damage:
    return lambda directory: (directory / name).write_text(
        json.dumps(json.loads((directory / name).read_text()) | changes)
    )


def edit_weights(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(directory: Path) -> None:
        tensors = load_file(directory / WEIGHTS)
        change(tensors)
        save_file(tensors, directory / WEIGHTS)

    return damage


def cut(name: str, keep: float) -> Damage:
    def damage(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: int(len(content) * keep)])

    return damage


def flip_byte(name: str) -> Damage:
    def damage(directory: Path) -> None:
        content = bytearray((directory / name).read_bytes())
        content[len(content) // 2] ^= 1
        (directory / name).write_bytes(content)

    return damage


def list_file(name: str) -> Damage:
    """Make the manifest list a file by this name."""

    def damage(directory: Path) -> None:
        files = json.loads((directory / "manifest.json").read_text())["files"]
        edit_json("manifest.json", files=files | {name: files["model.onnx"]})(directory)

    return damage


def pickle_only(directory: Path) -> None:
    (directory / WEIGHTS).rename(directory / "pytorch_model.bin")


def link_outside(directory: Path) -> None:
    (directory / "model.data").rename(directory.parent / "elsewhere")
    (directory / "model.data").symlink_to(directory.parent / "elsewhere")


# What is done to a whole model, and what `build` says then; {model} is its directory.
MODELS: dict[str, tuple[Damage, str]] = {
    "missing directory": (shutil.rmtree, "no such model directory: {model}"),
    "no config.json": (
        lambda model: (model / "config.json").unlink(),
        "{model} has no config.json: it is not a Hugging Face model",
    ),
    "unsupported architecture": (
        edit_json("config.json", architectures=["MambaForCausalLM"]),
        "architecture MambaForCausalLM is not supported; supported: Gemma2ForCausalLM, Gemma3For",
    ),
    "rope that changes with the length": (
        edit_json("config.json", rope_parameters={"rope_type": "dynamic", "factor": 2.0}),
        "RoPE scaling 'dynamic' is not supported; supported: default, linear, llama3, yarn, longr",
    ),
    "cut in the header": (cut(WEIGHTS, 0.001), "{model}/model.safetensors is damaged or cut short"),
    "cut in the data": (cut(WEIGHTS, 0.9), "{model}/model.safetensors is damaged or cut short"),
    "missing weight": (
        edit_weights(lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight")),
        "model lacks tensor model.layers.1.mlp.up_proj.weight",
    ),
    "extra weight": (
        edit_weights(lambda tensors: tensors.update(extra=tensors["model.norm.weight"].clone())),
        "model holds unknown tensor extra",
    ),
    "pickle only": (pickle_only, "{model} holds pickled weights (pytorch_model.bin)"),
}

# Options of `build` for a whole model; {work} is the folder around it.
OPTIONS: dict[str, tuple[str, str]] = {
    "group size": ("--group-size 48", "group size 48 is not offered; choose one of 32, 64, 128"),
    "quantiser": ("--quantiser gptq", "quantiser 'gptq' is not offered; choose one of rtn, hqq"),
    "symmetric hqq": (
        "--quantiser hqq --symmetric",
        "hqq fits zero points, so it cannot be symmetric; use rtn or awq",
    ),
    "LM head": ("--lm-head-bits 5", "--lm-head-bits: invalid choice: 5 (choose from 4, 8, 16, 32)"),
    "target": ("--target abacus", "target 'abacus' is not offered; choose one of "),
    "cache length": ("--max-seq-len 0", "max_seq_len must be at least 1, got 0"),
    "NaN tau": ("--tau nan", "tau holds NaN; use inf to forbid an exit and -inf to force one"),
    "pinned layer": ("--pinned 1,9", f"pinned layer 9 is outside 1..{LAYERS}"),
    "no calibration text": (
        "--quantiser awq --calibration-text {work}/none.txt",
        "calibration text {work}/none.txt cannot be read: No such file or directory",
    ),
    "text nobody reads": (
        "--quantiser rtn --calibration-text {work}/model/config.json",
        "rtn looks at no text; leave the calibration text out",
    ),
    "out exists": (
        "--out {work}/model",
        "{work}/model exists; give another --out, or --force to replace the engine",
    ),
    "out is no engine": (
        "--out {work}/model --force",
        "{work}/model is not a river engine (no manifest.json), so --force will not replace it",
    ),
    "out below a file": (
        "--out {work}/model/config.json/engine",
        "cannot write {work}/model/config.json/engine: {work}/model/config.json is not a directory",
    ),
}

# What is done to a whole engine, and what `run` and `inspect` say then; {engine} is its directory.
ENGINES: dict[str, tuple[Damage, str]] = {
    "missing directory": (
        shutil.rmtree,
        "{engine} is not a directory; build an engine with `river-trt build`",
    ),
    "no manifest": (
        lambda engine: (engine / "manifest.json").unlink(),
        "{engine} holds no manifest.json, so it is not a river engine",
    ),
    "changed byte in the graph": (flip_byte("model.onnx"), "model.onnx is damaged: its SHA-256"),
    "changed byte in the weights": (flip_byte("model.data"), "model.data is damaged: its SHA-256"),
    "changed byte in the tokenizer": (flip_byte("tokenizer.json"), "tokenizer.json is damaged"),
    "cut weights": (cut("model.data", 0.5), "model.data has "),
    "missing weights": (
        lambda engine: (engine / "model.data").unlink(),
        "model.data is missing from {engine}; copy it again or rebuild the engine",
    ),
    "newer schema": (
        edit_json("manifest.json", schema_version=5, of_the_future=True),
        "the engine is newer than this river-trt: it has manifest schema 5, and 4 is the latest "
        "read here; "
        f"upgrade with {this_build().upgrade()}",
    ),
    "unknown key": (edit_json("manifest.json", flow=1), "manifest.json: unknown key flow"),
    "path upwards": (list_file("../model/config.json"), "lists '../model/config.json', which"),
    "absolute path": (list_file("/etc/passwd"), "lists '/etc/passwd', which leaves the engine"),
    "link to the outside": (link_outside, "lists 'model.data', which leaves the engine directory"),
}

# Options of `run` on a whole engine whose cache is to have 8 slots, and stdin.
RUNS: dict[str, tuple[list[str], str]] = {
    "prompt longer than the cache": (
        ["--prompt", "a " * 9],
        "the prompt has 9 tokens but the cache has 8 slots; shorten it, or",
    ),
    "ids longer than the cache": (["--prompt-ids", "1,1,1,1,1,1,1,1,1"], "the prompt has 9 tokens"),
    "cache longer than the model": (
        ["--prompt", "a", "--max-seq-len", "4096"],
        "max_seq_len must be in 1..128 for this model, got 4096",
    ),
    "empty prompt": (["--prompt", ""], "the prompt is empty; give at least one character"),
    "prompt without a token": (["--prompt", " "], "the prompt is empty; give at least one token"),
    "empty stdin": ([], "the prompt is empty; give at least one character"),
    "empty ids": (["--prompt-ids", ""], "'' is not token ids joined by commas"),
    "id outside the vocabulary": (["--prompt-ids", "1,112"], "112 is outside the vocabulary 0..11"),
    "tau of the wrong length": (
        ["--prompt", "a", "--tau", "0.9,0.9,0.9"],
        f"tau has 3 values but the model has {LAYERS} layers; give one number, or one per layer",
    ),
    "NaN tau": (["--prompt", "a", "--tau", "nan"], "tau holds NaN; use inf to forbid an exit"),
    "NaN for one layer": (["--prompt", "a", "--tau", "1,nan"], "tau holds NaN; use inf to"),
    "pinned layer": (
        ["--prompt", "a", "--pinned", "0"],
        "a layer in pinned must be a whole number",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its engine, both in order."""
    work = tmp_path_factory.mktemp("whole")
    save_tiny_llama(work / "model", **(TINY | {"num_hidden_layers": LAYERS}))
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(work / "model" / "tokenizer.json"))
    build_whole(work / "model", work / "engine")
    return work


@pytest.fixture
def work(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def refused(work: Path, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must fail; its message. `capfd` sees what libraries print, too."""

    def check(*argv: object) -> str:
        before = contents(work)
        capfd.readouterr()
        code = main([str(item) for item in argv])
        out, err = capfd.readouterr()
        assert (code, out) == (2, "")
        assert contents(work) == before, "something is left behind"
        return message_of(err)

    return check


def build_whole(model: Path, out: Path) -> None:
    argv = ["build", "--model", str(model), "--out", str(out), "--quantiser", "rtn"]
    assert main([*argv, "--no-calibrate"]) == 0


def message_of(err: str) -> str:
    """The message on stderr: the last line, below nothing but names of stages."""
    *stages, line = err.removesuffix("\n").split("\n")
    forecast = [line for line in stages if line.startswith("takes about ")]
    assert set(stages) <= STAGES | set(forecast), err
    assert line.isprintable() and line.startswith("error: "), err
    return line.removeprefix("error: ")


def contents(directory: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in directory.rglob("*")}


@pytest.mark.parametrize("name", MODELS)
def test_model(work: Path, refused: Refused, name: str) -> None:
    damage, message = MODELS[name]
    damage(work / "model")
    found = refused("build", "--model", work / "model", "--out", work / "new" / "engine")
    assert message.format(model=work / "model") in found


@pytest.mark.parametrize("name", OPTIONS)
def test_build_option(work: Path, refused: Refused, name: str) -> None:
    options, message = OPTIONS[name]
    argv = ["build", "--model", work / "model", "--out", work / "new" / "engine"]
    assert message.format(work=work) in refused(*argv, *options.format(work=work).split())


def test_hub_id_offline(work: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = refused("build", "--model", "river-trt-test/absent", "--out", work / "new")
    assert message == (
        "river-trt-test/absent is no local directory, is not in the hub's cache, "
        "and the hub cannot be reached"
    )


def test_missing_build_extra(work: Path) -> None:
    argv = ["build", "--model", str(work / "model"), "--out", str(work / "new")]
    code = f"""
import sys
sys.modules["torch"] = None  # as if it were not installed
from river_trt.cli.main import main
sys.exit(main({argv!r}))
"""
    before = contents(work)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert message_of(done.stderr) == (
        f"building needs torch, which is not installed: {this_build().install('build')}"
    )
    assert contents(work) == before


@pytest.mark.parametrize("name", ENGINES)
def test_engine(work: Path, refused: Refused, name: str) -> None:
    damage, message = ENGINES[name]
    damage(work / "engine")
    for argv in (["inspect"], ["run", "--prompt", "a"]):
        assert message.format(engine=work / "engine") in refused(*argv, "--engine", work / "engine")


@pytest.mark.parametrize("name", RUNS)
def test_run_option(
    work: Path, refused: Refused, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, message = RUNS[name]
    with open("/dev/null") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        argv = ["run", "--engine", work / "engine", "--max-seq-len", "8", *options]
        assert message in refused(*argv)


@pytest.mark.parametrize("name", ["model.data", "manifest.json"])
def test_full_disk(
    work: Path, refused: Refused, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/dev/full answers every write as a full disk does, whoever asks."""
    make_directory = tempfile.mkdtemp

    def make_full(*args: Any, **options: Any) -> str:
        directory = make_directory(*args, **options)
        Path(directory, name).symlink_to("/dev/full")
        return directory

    monkeypatch.setattr(tempfile, "mkdtemp", make_full)
    argv = ["build", "--model", work / "model", "--out", work / "new" / "engine"]
    message = f"the disk is full: free some space for {work / 'new' / 'engine'} and build again"
    assert refused(*argv, "--quantiser", "rtn") == message


@pytest.fixture
def small_disk(work: Path) -> Iterator[Path]:
    """A file system that a tiny engine does not fit on."""
    disk = work / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "river-trt-test", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system; /dev/full stands in for it above")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_disk_that_is_really_full(work: Path, refused: Refused, small_disk: Path) -> None:
    argv = ["build", "--model", work / "model", "--out", small_disk / "engine"]
    assert refused(*argv, "--quantiser", "rtn").startswith("the disk is full: free some space")


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_file_that_the_file_system_cannot_hold(work: Path, refused: Refused) -> None:
    """As on a FAT disk, where 4 GB is the most."""
    argv = ["build", "--model", work / "model", "--out", work / "engine", "--force"]
    with file_size_limit(200_000):
        message = refused(*argv, "--quantiser", "rtn")
    assert message == f"cannot write {work / 'engine'}: File too large"


# A build that stops in the middle of the weights, so that a signal meets it there.
STALLED_BUILD = """
import signal, sys, time
from builders.layouts.weights_file import WeightsWriter
from river_trt.cli.main import main

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
write_planned, calls = WeightsWriter.write_planned, []

def stall(self, tensors):
    write_planned(self, tensors)
    calls.append(tensors)
    if len(calls) == 1:
        print("stalled", flush=True)
        time.sleep(120)

WeightsWriter.write_planned = stall
sys.exit(main(sys.argv[1:]))
"""
SIGNALS = {
    signal.SIGINT: (130, r"interrupted\n"),
    signal.SIGTERM: (128 + signal.SIGTERM, ""),
    signal.SIGKILL: (-signal.SIGKILL, ""),
}


@pytest.fixture(scope="module")
def stalled(
    whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[int, tuple[subprocess.Popen[str], Path]]]:
    """A stalled build for each signal, started together, and the folders they write to."""
    builds = {}
    for number in SIGNALS:
        parent = tmp_path_factory.mktemp(number.name) / "new"
        argv = ["build", "--model", whole / "model", "--out", parent / "engine"]
        process = subprocess.Popen(
            [sys.executable, "-c", STALLED_BUILD, *map(str, argv), "--quantiser", "rtn"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        builds[number] = process, parent
    yield builds
    for process, _ in builds.values():
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
def test_interrupted_build(
    whole: Path, stalled: dict[int, tuple[subprocess.Popen[str], Path]], number: signal.Signals
) -> None:
    process, parent = stalled[number]
    assert process.stdout is not None and process.stdout.readline() == "stalled\n"
    half_built = list(parent.iterdir())
    assert len(half_built) == 1 and (half_built[0] / "model.data").stat().st_size > 0
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    code, message = SIGNALS[number]
    assert (process.returncode, out) == (code, "")
    assert re.fullmatch(rf"(takes about .*\n)?tracing\n(quantising\n)?\n?{message}", err)
    if number == signal.SIGKILL:  # no one could tidy up, but it is no engine either
        assert not (parent / "engine").exists()
    else:
        assert not parent.exists()

    build_whole(whole / "model", parent / "engine")
    assert [path.name for path in parent.iterdir()] == ["engine"]
    assert (parent / "engine" / "model.data").read_bytes() == (
        whole / "engine" / "model.data"
    ).read_bytes()
    river_trt.load(parent / "engine", max_seq_len=8)
