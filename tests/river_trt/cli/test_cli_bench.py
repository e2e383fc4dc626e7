import json

import pytest

from river_trt.cli.main import main

SHORT = ["--new-tokens", "4", "--rounds", "3"]


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
    assert (result["new_tokens"], result["rounds"], result["prompts"]) == (4, 3, 2)
    full, own, river, pinned_river, mixed = result["arms"]
    assert [arm["tau"] for arm in result["arms"]] == ["inf", None, "-inf", "-inf", ["inf", 0, 0, 0]]
    assert full["ratio"] == 1.0
    assert (full["mean_backbone_layers"], full["bytes_per_step"]) == (4, 408)
    assert own["mean_backbone_layers"] == mixed["mean_backbone_layers"] == 4
    assert (river["mean_backbone_layers"], river["bytes_per_step"]) == (1, 138)
    assert pinned_river["mean_backbone_layers"] == 2  # the engine's pins
    for arm in result["arms"]:
        assert len(arm["rounds"]) == 3
        assert all(r["tokens"] == 6 and len(r["first_token_seconds"]) == 2 for r in arm["rounds"])


def test_built_in_prompts_fit_the_engine(capsys, make_directory):
    directory = make_directory(has_tokenizer=False)
    assert main(["bench", str(directory), *SHORT, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompts"] == 1


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "a" * 60, "--new-tokens", "9"], "do not fit the cache of 64 slots"),
        (["--prompt", "a", "--new-tokens", "1"], "new_tokens must be at least 2"),
        (["--prompt", "a", "--rounds", "0"], "rounds must be at least 1"),
        (["--prompt", "a", "--batch", "0"], "batch must be at least 1"),
        (["--prompt", "a", "--tau", "nan"], "tau holds NaN"),
        (["--prompt", "a", "--tau", "1,2"], "tau has 2 values"),
    ],
)
def test_bad_input_is_one_line_before_anything_runs(directory, refused, argv, message):
    assert message in refused("bench", directory, *argv)


def test_prompt_of_an_engine_without_tokenizer_is_refused(make_directory, refused):
    directory = make_directory(has_tokenizer=False)
    assert "no tokenizer" in refused("bench", directory, "--prompt", "a")
