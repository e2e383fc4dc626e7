import json

import pytest

from river_trt.cli.main import main
from river_trt.origin import this_build

SHORT = ["--new-tokens", "4", "--rounds", "3"]
A = [*SHORT, "--prompt", "a"]


@pytest.fixture(autouse=True)
def bandwidth(monkeypatch):
    monkeypatch.setattr("river_trt.cli.bench.read_bandwidth", lambda threads: 1e9)
    monkeypatch.setattr("river_trt.cli.bench.product_rate", lambda threads: 1e9)


def test_arms_stand_side_by_side(capsys, directory):
    assert main(["bench", str(directory), *SHORT, "--prompt", "a", "--tau", "0.25"]) == 0
    captured = capsys.readouterr()
    for text in ("full depth", "engine's", "all river", "tau 0.25", "1.00x", "GB/s"):
        assert text in captured.out
    assert "measuring" in captured.err and "measuring" not in captured.out


def test_json_holds_every_round(capsys, directory):
    argv = ["bench", str(directory), *SHORT, "--json", "--prompt", "a", "--prompt", "bc"]
    assert main([*argv, "--tau", "-inf", "--tau", "inf,0,0,0"]) == 0
    result = json.loads(capsys.readouterr().out)
    (case,) = result["cases"]
    assert (case["new_tokens"], case["rounds"], case["prompts"]) == (4, 3, 2)
    full, own, river, pinned_river, mixed = case["arms"]
    assert [arm["tau"] for arm in case["arms"]] == ["inf", None, "-inf", "-inf", ["inf", 0, 0, 0]]
    assert full["ratio"] == 1.0
    assert full["mean_backbone_layers"] == 4
    assert full["bytes_per_step"] - river["bytes_per_step"] == 408 - 138
    assert 0 < full["roof"] == pytest.approx(result["bandwidth"] / full["bytes_per_step"])
    assert full["prefill_rate"] > 0 and full["rounds"][0]["prompt_tokens"] == 1 + 2
    operations = full["rounds"][0]["prefill_operations"]
    assert full["prefill_roof"] == pytest.approx(3 * result["products"] / operations)
    assert own["mean_backbone_layers"] == mixed["mean_backbone_layers"] == 4
    assert river["mean_backbone_layers"] == 1
    assert pinned_river["mean_backbone_layers"] == 2  # the engine's pins
    for arm in case["arms"]:
        assert len(arm["rounds"]) == 3
        assert all(r["tokens"] == 6 and len(r["first_token_seconds"]) == 2 for r in arm["rounds"])


def test_trace_is_a_file_of_every_mode_and_load(capsys, directory, tmp_path):
    file = tmp_path / "trace.json"
    argv = ["bench", str(directory), *SHORT, "--context", "3,5", "--trace", str(file)]
    assert main([*argv, "--mode", "full", "--mode", "river"]) == 0
    events = json.loads(file.read_text())["traceEvents"]
    names = [e["args"]["name"] for e in events if e["name"] == "process_name"]
    assert names == [
        "full depth, batch 1, prompts of 3 tokens",
        "all river, batch 1, prompts of 3 tokens",
        "full depth, batch 1, prompts of 5 tokens",
        "all river, batch 1, prompts of 5 tokens",
    ]
    assert {e["pid"] for e in events} == {0, 1, 2, 3}
    assert all(e["ts"] >= 0 and e["dur"] >= 0 for e in events if e["ph"] == "X")
    assert sum(e["name"] == "step" for e in events) == 4 * 4  # a prefill and three decode steps


def test_built_in_prompts_fit_the_engine(capsys, make_directory):
    directory = make_directory(has_tokenizer=False)
    assert main(["bench", str(directory), *SHORT, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"][0]["prompts"] == 1


def test_loads_and_engines_multiply(capsys, directory):
    argv = ["bench", str(directory), str(directory), "--new-tokens", "3", "--rounds", "1"]
    argv += ["--batch", "1,2", "--context", "5,9", "--mode", "full", "--mode", "river"]
    assert main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    loads = [(case["batch"], case["context"]) for case in result["cases"]]
    assert loads == [(1, 5), (1, 9), (2, 5), (2, 9)]
    for case in result["cases"]:
        assert [arm["engine"] for arm in case["arms"]] == [0, 0, 1, 1]
        assert len({arm["name"] for arm in case["arms"]}) == 4
    assert result["cases"][0]["arms"][0]["mixed_loss"] is None
    assert result["cases"][2]["arms"][0]["mixed_loss"] == pytest.approx(0.0)
    assert main(argv) == 0
    assert "batch 2, prompts of 9 tokens" in capsys.readouterr().out


def test_scores_of_an_earlier_run_are_taken(capsys, directory, tmp_path, refused):
    assert main(["bench", str(directory), *A, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    stored = tmp_path / "bench.json"
    stored.write_text(json.dumps(result))
    assert "has no scores" in refused("bench", directory, *A, "--quality", stored)
    result["cases"][0]["arms"][1]["quality"] = {"kl": 0.0525, "agreement": 0.875}
    stored.write_text(json.dumps(result))
    assert main(["bench", str(directory), *A, "--quality", str(stored)]) == 0
    out = capsys.readouterr().out
    assert out.count("0.0525") == 1 and out.count("87.5%") == 1
    stored.write_text("{}")
    assert "is not the --json" in refused("bench", directory, *A, "--quality", stored)


def test_a_peer_asked_for_by_name_that_is_missing_ends_the_run(capsys, directory, no_peers):
    argv = ["bench", str(directory), *A, "--peer", "llama.cpp-f16", "--model", "demo"]
    assert main([*argv, "--work", str(no_peers)]) == 2
    captured = capsys.readouterr()
    message = f"error: llama.cpp-f16 is not installed: {this_build().install('llama')}\n"
    assert captured.out == "" and captured.err.endswith(message)


def test_all_peers_names_those_that_are_missing(capsys, directory, no_peers):
    argv = ["bench", str(directory), *A, "--peer", "all", "--model", "demo"]
    assert main([*argv, "--work", str(no_peers), "--json"]) == 0
    captured = capsys.readouterr()
    missing = json.loads(captured.out)["missing"]
    assert len(missing) == 6 and all("pip install" in text for text in missing)
    assert "not measured: genai-int4" in captured.err


@pytest.fixture
def no_peers(monkeypatch, tmp_path):
    """A working directory for peers, none of which is installed."""
    package = tmp_path / "site" / "builders" / "peers"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("raise SystemExit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)  # python -m looks there first
    return tmp_path / "work"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "a" * 60, "--new-tokens", "9"], "do not fit the cache of 64 slots"),
        (["--prompt", "a", "--new-tokens", "1"], "new_tokens must be at least 2"),
        (["--prompt", "a", "--rounds", "0"], "rounds must be at least 1"),
        (["--prompt", "a", "--batch", "0"], "batch must be at least 1"),
        (["--prompt", "a", "--tau", "nan"], "tau holds NaN"),
        (["--batch", "1,0"], "batch must be at least 1"),
        (["--context", "0"], "context must be at least 1 token"),
        (["--context", "62", "--new-tokens", "9"], "do not fit the cache of 64 slots"),
        (["--depth", "5"], "depth 5 is not one of the layers 1..4"),
        (["--peer", "all"], "peers need the weights"),
        (["--quality", "/nowhere/text"], "--quality: /nowhere/text is not there"),
        (["--trace", "/nowhere/trace.json"], "--trace: /nowhere is not there"),
        (["--plot", "/nowhere/page.html"], "--plot: /nowhere is not there"),
        (["--prompt", "a", "--tau", "1,2"], "tau has 2 values"),
    ],
)
def test_bad_input_is_one_line_before_anything_runs(directory, refused, argv, message):
    assert message in refused("bench", directory, *argv)


def test_prompt_of_an_engine_without_tokenizer_is_refused(make_directory, refused):
    directory = make_directory(has_tokenizer=False)
    assert "no tokenizer" in refused("bench", directory, "--prompt", "a")


def test_lossless_mode_has_a_speed_but_no_depth(capsys, directory):
    argv = ["bench", str(directory), *SHORT, "--json", "--prompt", "a"]
    assert main([*argv, "--mode", "full", "--mode", "lossless"]) == 0
    full, lossless = json.loads(capsys.readouterr().out)["cases"][0]["arms"]
    assert (full["mode"], lossless["mode"]) == ("river", "lossless")
    assert lossless["mean_backbone_layers"] is lossless["bytes_per_step"] is None
    assert full["ratio"] == 1.0 and lossless["ratio"] > 0
