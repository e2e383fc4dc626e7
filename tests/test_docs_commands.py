"""What README and docs/ tell people to type works: commands run on a tiny engine, snippets too.

A command that cannot run here is in NOT_RUN with its reason; its options are still looked up.
"""

import argparse
import importlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from builders.build import BuildOptions, build
from river_trt.cli.command import make_parser
from river_trt.cli.main import COMMANDS, main
from tests.builders.tiny_engines import TINY
from tests.builders.tiny_llama import save_tiny_llama
from tests.river_trt.conftest import VOCAB, byte_tokenizer

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:river-trt|python scripts/\w+\.py) [^`]+)`")
PROGRAMS = re.compile(
    r"^(\$ )?(river-trt|pip|python|curl|docker|\./scripts|scripts)\b", re.MULTILINE
)

NOT_RUN = {
    r"(python -m )?pip |python -m hatchling|twine |auditwheel |RIVER_TRT_PREBUILT=": "test_wheel",
    r"(\./)?scripts/\w+\.sh|\.venv/bin/python -m pytest|RIVER_TRT_FUZZ=": "sets up, or tests",
    r"docker |mpirun |trtllm-build |aiperf |echo |vllm |lm-eval ": "another project's program",
    r"curl |river-trt (triton )?serve ": "a server; tests/river_trt has its own",
    r"river-trt plugin build": "needs nvcc; tests/river_trt/plugin",
    r"river-trt build .*--backend (tensorrt-rtx|tensorrt-llm|aotinductor)": "tests/builders",
    r"river-trt bench .*--peer (all|genai)": "other runtimes; tests/builders/peers",
    r"river-trt evaluate .*--task": "data sets; tests/builders/tasks",
    r"river-trt verify|river-trt convert": "tests/builders",
    r"river-trt triton doctor": "needs tritonserver; tests/river_trt/triton",
    r"python scripts/": "measures for minutes on a real model",
}
NO_SNIPPET = r"import openai"  # asks a server; tests/river_trt/openai does with this client
# What makes a command quick on the tiny engine; the last of an option given twice counts.
QUICK = {
    "bench": "--rounds 1 --new-tokens 4",
    "build": "--quantiser rtn --no-calibrate --force",
    "calibrate": "--pieces 8 --piece-tokens 48 --skip 8",
    "evaluate": "--pieces 2 --piece-tokens 48 --skip 8",
    "run": "--max-new-tokens 4",
}
RULES_OUT = {"--no-calibrate": "--quality"}


def commands(page: Path) -> list[str]:
    """The command lines of a page's blocks: comments gone, continued lines joined."""
    found = []
    for language, body in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "console":
            body = "".join(f"{line[2:]}\n" for line in body.splitlines() if line[:2] == "$ ")
        elif language != "sh":
            continue
        command = ""
        for line in body.replace("\\\n", " ").splitlines():
            command += line
            if not is_open(command):  # else a text in quotes goes on
                found.append(command.strip())
                command = ""
    return [command for command in found if command and not command.startswith("#")]


def is_open(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return True
    return False


def snippets(page: Path) -> list[str]:
    return [
        body for kind, body in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == "python"
    ]


def words(command: str) -> list[str]:
    """As a shell splits it; without options that a page shows in brackets, or as three dots."""
    found = shlex.split(command, comments=True)
    return [word.strip("[]") for word in found if not word.startswith("...")]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def is_run(command: str) -> bool:
    return command.startswith("river-trt ") and not any(re.match(p, command) for p in NOT_RUN)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a model, an engine of it and texts, under the names that the pages use."""
    folder = tmp_path_factory.mktemp("place")
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    sizes = TINY | {"vocab_size": VOCAB, "max_position_embeddings": 2048}
    # The pages force exits at layer 16; what they build may be as small as can be.
    for name, layers in (("deep", 16), ("model", 2)):
        save_tiny_llama(folder / name, **(sizes | {"num_hidden_layers": layers}))
        byte_tokenizer().save(str(folder / name / "tokenizer.json"))
        (folder / name / "chat_template.jinja").write_text(template)
    build(BuildOptions(str(folder / "deep"), folder / "engine", quantiser="rtn"))
    for name in (
        *("engine-demo", "engine-fp32", "engine-int8"),
        *("fp32", "f16", "int8", "tuned", "ENGINE", "e"),
    ):
        (folder / name).symlink_to("engine")
    for name in ("my-llama", "llama"):
        (folder / name).symlink_to("model")
    letters = np.random.default_rng(0).integers(97, 123, 1500).tolist()
    for name in ("wiki.txt", "wiki-a.txt", "wiki-b.txt", "WIKITEXT.txt"):
        (folder / name).write_text(bytes(letters).decode())
    record = json.dumps({"text": bytes(letters[:200]).decode()})
    (folder / "chats.jsonl").write_text(f"{record}\n{record}\n")
    return folder


@pytest.fixture(scope="module")
def done() -> set[str]:
    """Commands that ran on an earlier page."""
    return set()


@pytest.fixture
def here(place, monkeypatch) -> Path:
    """In that folder, where `demo` is the tiny model."""
    monkeypatch.chdir(place)
    monkeypatch.setattr("river_trt.cli.bench.read_bandwidth", lambda threads: 1e10)
    monkeypatch.setattr("river_trt.cli.bench.product_rate", lambda threads: 1e11)
    return place


@pytest.mark.parametrize("page", [p for p in PAGES if any(map(is_run, commands(p)))], ids=name_of)
def test_the_commands_of_a_page_work(page, here, capsys, done):
    for command in filter(is_run, commands(page)):
        if command in done:
            continue
        done.add(command)
        argv = words(command)[1:]
        kept = argv.index(">") if ">" in argv else None
        quick = [o for o in QUICK.get(argv[0], "").split() if RULES_OUT.get(o) not in argv]
        code = main([*as_here(argv[:kept]), *quick])
        captured = capsys.readouterr()
        assert code == 0, f"{command}\n{captured.err}"
        if kept is not None:
            (here / argv[kept + 1]).write_text(captured.out)


def as_here(argv: list[str]) -> list[str]:
    """With the tiny model, no engine overwritten, and little to read."""
    changed = {"--model": "model", "--out": "made", "--context": "8,16"}
    return [changed.get(before, word) for before, word in zip(["", *argv], argv, strict=False)]


@pytest.mark.parametrize("page", [p for p in PAGES if snippets(p)], ids=name_of)
def test_the_snippets_of_a_page_work(page, here, capsys):
    names = {"__name__": "__main__"}
    for number, snippet in enumerate(snippets(page), 1):
        code = compile(snippet, f"{page.name}, snippet {number}", "exec")
        if not re.match(NO_SNIPPET, snippet):
            exec(code, names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_that_a_page_names_exist(page, monkeypatch):
    """In blocks, those that are not run too, and within a line."""
    inline = INLINE.findall(BLOCK.sub("", page.read_text(encoding="utf-8")))
    unknown = []
    for command in [*commands(page), *(" ".join(text.split()) for text in inline)]:
        if re.match(r"river-trt \w|python scripts/", command):
            known = known_options(words(command), monkeypatch)
            given = [word.partition("=")[0] for word in words(command) if word.startswith("--")]
            unknown += [(command, option) for option in given if option not in known]
    assert unknown == []


def known_options(command: list[str], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    if command[0] == "river-trt":
        return options_of(make_parser("river-trt", "", "", COMMANDS, command[1:]))
    found: list[argparse.ArgumentParser] = []

    def stop(parser: argparse.ArgumentParser, argv: object = None) -> None:
        found.append(parser)
        raise InterruptedError

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        importlib.import_module(command[1].removesuffix(".py").replace("/", ".")).main([])
    return options_of(found[0])


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """Of a parser and of its commands."""
    found = set()
    for action in parser._actions:
        found |= set(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            found |= {o for part in action.choices.values() for o in options_of(part)}
    return found


def test_no_command_hides_in_a_block_without_a_language():
    """`text` says of a block that it is not for typing."""
    hidden = [
        (name_of(page), line.group())
        for page in PAGES
        for language, body in BLOCK.findall(page.read_text(encoding="utf-8"))
        if language not in ("sh", "console", "python", "diff", "text")
        for line in [PROGRAMS.search(body)]
        if line
    ]
    assert hidden == []


def test_every_reason_not_to_run_is_used_and_every_command_has_one_or_runs():
    every = [command for page in PAGES for command in commands(page)]
    assert [p for p in NOT_RUN if not any(re.match(p, command) for command in every)] == []
    left = [c for c in every if not is_run(c) and not any(re.match(p, c) for p in NOT_RUN)]
    assert left == []


def test_a_planted_option_and_command_are_found(monkeypatch):
    assert "--no-such" not in known_options(["river-trt", "run"], monkeypatch)
    assert "--prompt" in known_options(["river-trt", "run"], monkeypatch)
    assert words("river-trt run [--stats] ...   # why") == ["river-trt", "run", "--stats"]
