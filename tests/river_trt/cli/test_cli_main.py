import subprocess
import sys
import warnings

import pytest

import river_trt
from river_trt.cli import run
from river_trt.cli.main import COMMANDS, main
from river_trt.errors import RiverWarning

PYTHON = [sys.executable, "-m", "river_trt"]


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"river-trt {river_trt.__version__}\n"


def test_no_command_shows_the_help_and_fails(capsys):
    assert main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "river-trt build --model demo" in captured.err


@pytest.mark.parametrize("command", [command.name for command in COMMANDS])
def test_help_has_an_example(capsys, command):
    assert main([command, "--help"]) == 0
    assert f"examples:\n  river-trt {command} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["server"], "invalid choice: 'server'"),
        (["run", "--speed", "9"], "unrecognized arguments: --speed"),
        (["run", "--promt", "a"], "unrecognized arguments: --promt; did you mean --prompt?"),
        (["triton", "serve", "--rep", "a", "--repo", "b"], "see `river-trt triton serve --help`"),
        (["run", "--max-new", "9"], "unrecognized arguments"),  # no abbreviations
        (["run", "--top-k", "many"], "argument --top-k: invalid int value: 'many'"),
        (["build"], "required: --model, --out"),
    ],
)
def test_bad_usage_is_one_line(refused, argv, message):
    line = refused(*argv)
    assert message in line and "--help`" in line


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            PermissionError(13, "Permission denied", "engine/model.onnx"),
            2,
            "engine/model.onnx: Per",
        ),
        (river_trt.RiverError("two\nlines [L]"), 2, "error: two lines [L]\n"),
    ],
)
def test_errors_become_exit_codes(capsys, monkeypatch, error, code, message):
    def fail(*args):
        raise error

    monkeypatch.setattr(run, "load_engine", fail)
    assert main(["run", "--engine", "x", "--prompt", "a"]) == code
    assert message in capsys.readouterr().err


class Panic(BaseException):
    """As the bindings of Rust raise it."""


@pytest.mark.parametrize("error", [TypeError("bug\nand more"), RecursionError(), Panic("index 7")])
def test_a_fault_of_our_own_is_one_line_and_code_3(monkeypatch, tmp_path, capsys, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(run, "load_engine", fail)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    argv = ["run", "--engine", "x", "--prompt", "a"]
    assert main(argv) == 3
    out, err = capsys.readouterr()
    (written,) = (tmp_path / "river-trt" / "faults").iterdir()
    name = type(error).__name__
    assert out == "" and err.count("\n") == 1
    assert "this is a fault of river-trt, please report it" in err and name in err
    assert str(written) in err
    assert "Traceback" in written.read_text() and "load_engine" in written.read_text()

    assert main([*argv, "--debug"]) == 3
    err = capsys.readouterr().err
    assert "Traceback" in err and err.splitlines()[-1].endswith("the traceback is above")
    assert len(list(written.parent.iterdir())) == 1

    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert main(argv) == 3
    assert "run it with --debug" in capsys.readouterr().err


def test_too_little_memory_is_no_fault_of_ours(monkeypatch, refused):
    def fail(*args):
        raise MemoryError("Unable to allocate 5 EiB")

    monkeypatch.setattr(run, "load_engine", fail)
    line = refused("run", "--engine", "x", "--prompt", "a")
    assert "not enough memory: Unable to allocate 5 EiB" in line


def test_what_a_terminal_would_obey_is_shown(monkeypatch, refused):
    def fail(*args):
        raise river_trt.RiverError("clear \x1b[2J the \udc80 screen")

    monkeypatch.setattr(run, "load_engine", fail)
    assert "clear \\x1b[2J the \\udc80 screen" in refused("run", "--engine", "x", "--prompt", "a")


@pytest.mark.parametrize("output", [["--stats"], ["--json"], []])
def test_closed_pipe_is_silent(directory, output):
    """As in `river-trt run ... | head -1`."""
    argv = [*PYTHON, "run", directory, "--prompt", "a", "--max-new-tokens", "60", *output]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["build", "--help"],  # its options are the builders' own, whose declarations are plain
        ["run", "--help"],
        ["inspect", "ENGINE"],
        ["run", "--engine", "ENGINE", "--prompt", "a", "--max-new-tokens", "3", "--stats"],
        ["bench", "ENGINE", "--prompt", "a", "--new-tokens", "3", "--rounds", "1"],
    ],
)
def test_no_build_library_is_imported(directory, argv):
    ours = "" if argv[0] == "build" else "builders"
    argv = [str(directory) if item == "ENGINE" else item for item in argv]
    code = (
        "import sys\n"
        "from river_trt.cli.main import main\n"
        f"assert main({argv!r}) == 0\n"
        f"names = {{'torch', 'transformers', 'onnx', 'safetensors', {ours!r}}}\n"
        "print('imported:', sorted(names & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("imported: []\n")


def test_a_warning_is_one_line(capsys, monkeypatch):
    def execute(argv):
        warnings.warn("the head\n differs", RiverWarning, stacklevel=1)
        return 0

    monkeypatch.setattr("river_trt.cli.main._execute", execute)
    before = warnings.showwarning
    assert main([]) == 0
    assert capsys.readouterr().err == "warning: the head differs\n"
    assert warnings.showwarning is before
