import io
import json
import sys

import pytest

from river_trt import GenerationConfig
from river_trt.cli import run
from river_trt.cli.command import make_parser
from river_trt.cli.main import main


def start(directory, *argv):
    return main(["run", "--engine", str(directory), "--ignore-eos", *argv])


def json_of(capsys, directory, *argv):
    assert start(directory, "--json", *argv) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def test_streams_the_text_and_nothing_else(capsys, directory):
    assert start(directory, "--prompt", "a", "--max-new-tokens", "5") == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("bcdef\n", "")


def test_engine_may_be_positional(capsys, directory):
    assert main(["run", str(directory), "--prompt", "a", "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().out == "bc\n"


def test_prompt_from_stdin_without_its_last_newline(capsys, directory, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("xa\n"))
    assert start(directory, "--max-new-tokens", "3") == 0
    assert capsys.readouterr().out == "bcd\n"


def test_json_is_one_object(capsys, directory):
    result = json_of(capsys, directory, "--prompt", "a", "--max-new-tokens", "3", "--tau", "0.1")
    assert result["text"] == "bcd"
    assert len(result["token_ids"]) == 3
    assert result["finish_reason"] == "length"
    assert result["exit_layers"] == [4, 1, 1]  # the prefill runs the backbone
    assert result["backbone_layers"] == [4, 2, 2]  # the engine pins layers 1 and 3
    assert set(result["timings"]) == {
        "load_seconds",
        "compile_seconds",
        "prefill_seconds",
        "prefill_tokens_per_second",
        "decode_seconds",
        "tokens_per_second",
    }


def test_one_token_has_no_decode_speed(capsys, directory):
    result = json_of(capsys, directory, "--prompt", "a", "--max-new-tokens", "1")
    assert result["timings"]["tokens_per_second"] is None
    assert start(directory, "--prompt", "a", "--max-new-tokens", "1", "--stats") == 0
    assert capsys.readouterr().out.count("tokens/s") == 1  # the prompt's


@pytest.mark.parametrize(
    ("policy", "exits", "depths"),
    [
        ([], [4, 4], [4, 4]),
        (["--full-depth"], [4, 4], [4, 4]),
        (["--tau", "inf"], [4, 4], [4, 4]),
        (["--tau", "-inf"], [4, 1], [4, 2]),
        (["--tau=-inf", "--pinned", "none"], [4, 1], [4, 1]),
        (["--tau", "-inf,1,1,1", "--pinned", "2,3,4"], [4, 1], [4, 4]),
        (["--tau", "-0.5", "--pinned", "4"], [4, 1], [4, 2]),
    ],
)
def test_policy_options(capsys, directory, policy, exits, depths):
    result = json_of(capsys, directory, "--prompt", "a", "--max-new-tokens", "2", *policy)
    assert result["exit_layers"] == exits
    assert result["backbone_layers"] == depths


def test_stats_show_speed_depth_and_exits(capsys, directory):
    assert start(directory, "--prompt", "a", "--tau", "0", "--stats", "--max-new-tokens", "9") == 0
    out = capsys.readouterr().out
    assert out.startswith("bcdefghij\n")
    for text in ("9 tokens (length)", "tokens/s", "time to first token", "2.0 of 4 layers", "100%"):
        assert text in out


def test_chat_applies_the_template(capsys, directory):
    argv = ["--chat", "--prompt", "a", "--system", "be brief", "--max-new-tokens", "1"]
    result = json_of(capsys, directory, *argv)
    assert result["prompt_tokens"] == len("[system]be brief[user]a")


def test_stop_may_be_repeated(capsys, directory):
    assert start(directory, "--prompt", "a", "--stop", "zz", "--stop", "ef") == 0
    assert capsys.readouterr().out == "bcd\n"


def test_engine_without_a_tokenizer_takes_ids(capsys, make_directory, refused):
    directory = make_directory(has_tokenizer=False)
    assert start(directory, "--prompt-ids", "1,5", "--max-new-tokens", "3") == 0
    assert capsys.readouterr().out == "6 7 8 \n"
    assert "--prompt-ids" in refused("run", directory, "--prompt", "a")


def test_a_text_is_held_to_a_schema(capsys, directory, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["defg", "xyz"]}')
    command = ["run", "--engine", str(directory), "--prompt", "b", "--json-schema", str(schema)]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) in ("defg", "xyz")
    schema.write_text('{"not": {}}')
    assert main(command) == 2
    assert "json_schema cannot be followed" in capsys.readouterr().err


def test_option_defaults_are_the_dataclass_s():
    parser = make_parser("river-trt", "0", "", [run.COMMAND], ["run"])
    args = parser.parse_args(["run", "--prompt", "a"])
    assert run.generation_config(args) == GenerationConfig()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--prompt", ""], "the prompt is empty"),
        (["--prompt", "a" * 65], "the prompt has 65 tokens but the cache has 64 slots"),
        (["--prompt-ids", "999"], "token id 999 is outside the vocabulary"),
        (["--prompt-ids", "1,x"], "'1,x' is not token ids"),
        (["--prompt", "a", "--tau", "0.5,0.6"], "tau has 2 values but the model has 4 layers"),
        (["--prompt", "a", "--tau", "nan"], "tau holds NaN"),
        (["--prompt", "a", "--tau", "-nan"], "tau holds NaN"),
        (["--prompt", "a", "--tau", "0.5,nan,0,0"], "tau holds NaN"),
        (["--prompt", "a", "--tau", "low"], "'low' is not numbers"),
        (["--prompt", "a", "--tau", "1", "--full-depth"], "not allowed with argument --tau"),
        (["--prompt", "a", "--tau", "1", "--lossless"], "not allowed with argument --tau"),
        (["--prompt", "a", "--lossless", "--max-draft-tokens", "0"], "max_draft_tokens must be"),
        (["--prompt", "a", "--lossless", "--pinned", "5"], "pinned layer 5 is not one of"),
        (["--prompt", "a", "--pinned", "5"], "pinned layer 5 is not one of the layers 1..4"),
        (["--prompt", "a", "--pinned", "first"], "'first' is not layer numbers"),
        (["--prompt", "a", "--temperature", "-1"], "temperature must be a number at least 0"),
        (["--prompt", "a", "--top-p", "2"], "top_p must be"),
        (["--prompt", "a", "--max-new-tokens", "0"], "max_new_tokens must be"),
        (["--prompt", "a", "--json-schema", "/no/such"], "cannot read /no/such"),
        (["--prompt", "a", "--frequency-penalty", "3"], "frequency_penalty must be"),
        (["--prompt", "a", "--max-seq-len", "65"], "max_seq_len must be in 1..64"),
        (["--prompt", "a", "--threads", "0"], "threads must be at least 1"),
        (["--prompt", "a", "--system", "b"], "add --chat"),
        (["--prompt", "a", "--template-arguments", "{}"], "--template-arguments is for a chat"),
        (["--prompt", "a", "--chat-template", "b"], "--chat-template is for a chat"),
        (["--prompt", "a", "--chat", "--template-arguments", "[1]"], "is no JSON object"),
        (["--prompt", "a", "--chat", "--chat-template", "b"], "no chat template 'b'"),
        (["--prompt-ids", "1", "--chat"], "--chat and --system need a text"),
        (["--prompt", "a\udcff"], "not UTF-8"),
    ],
)
def test_bad_input_is_one_line(directory, refused, argv, message):
    assert message in refused("run", "--engine", directory, *argv)


def test_lossless_is_the_full_depth_text_and_says_how_it_went(capsys, directory):
    argv = ("--prompt", "a", "--max-new-tokens", "12")
    full = json_of(capsys, directory, *argv, "--full-depth")
    assert full["speculation"] is None
    for extra in ([], ["--pinned", "2"], ["--max-draft-tokens", "2"]):
        result = json_of(capsys, directory, *argv, "--lossless", *extra)
        assert result["text"] == full["text"]
        found = result["speculation"]
        assert found["acceptance"] == 1.0 and max(found["drafted"]) <= 5
        assert sum(found["accepted"]) + len(found["accepted"]) == 11
    assert max(found["drafted"]) == 2
    assert start(directory, *argv, "--lossless", "--stats") == 0
    shown = capsys.readouterr().out
    assert "accepted (100%)" in shown and "tokens a verification" in shown
    assert "x full depth" in shown and "exit layer" not in shown


@pytest.mark.parametrize("text", ["", "\n"])
def test_empty_stdin_is_refused(directory, refused, monkeypatch, text):
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert "the prompt is empty" in refused("run", "--engine", directory)


def test_stdin_that_is_no_text_is_refused(directory, refused, monkeypatch):
    raw = io.TextIOWrapper(io.BytesIO(b"\xff\xfe"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", raw)
    assert "not UTF-8" in refused("run", "--engine", directory)


def test_engine_is_given_once(directory, refused):
    assert "one engine directory" in refused("run", "--prompt", "a")
    assert "one engine directory" in refused("run", directory, "--engine", directory)
