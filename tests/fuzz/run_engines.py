"""Commands over damaged copies of an engine, in one process: `run_engines.py ENGINE SEED COUNT`.

Prints one JSON object: how many of each exit code, and every case that is a fault of ours. A case
that hangs ends the process by SIGALRM, one that corrupts memory by its signal; the last line of
stderr then names the case.
"""

import contextlib
import io
import json
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from river_trt.cli.main import FAULT, main
from tests.fuzz.damage import damaged

SECONDS = 30  # for a case that takes milliseconds
COMMANDS = (
    ["inspect"],
    ["inspect", "--json"],
    ["inspect", "--layers", "--no-verify"],
    *(
        ["run", "--max-seq-len", "16", "--max-new-tokens", "2", *given]
        for given in (
            ["--prompt-ids", "1,2,3"],
            ["--prompt", "a b", "--stats"],
            ["--chat", "--prompt", "a", "--json"],
            ["--prompt-ids", "1", "--tau", "-inf", "--no-verify"],
            ["--prompt-ids", "1,2", "--lossless"],
        )
    ),
)


def run_case(engine: Path, work: Path, seed: int) -> tuple[int, str]:
    """The exit code and what is to know of the case, if it is a fault."""
    choice = random.Random(seed)
    copy = work / "engine"
    shutil.copytree(engine, copy)
    what = damaged(copy, choice)
    command = choice.choice(COMMANDS)
    argv = [command[0], str(copy), *command[1:]]
    print(json.dumps([seed, what, argv[:1] + argv[2:]]), file=sys.stderr, flush=True)
    signal.alarm(SECONDS)
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main([*argv, "--debug"])
    finally:
        signal.alarm(0)
    shutil.rmtree(copy)
    wrong = code not in (0, 2) or "Traceback" in err.getvalue() or code == FAULT
    return code, err.getvalue()[-3000:] if wrong else ""


def run(engine: Path, first_seed: int, count: int) -> dict[str, object]:
    codes: Counter[int] = Counter()
    faults = []
    with tempfile.TemporaryDirectory() as name:
        for seed in range(first_seed, first_seed + count):
            code, fault = run_case(engine, Path(name), seed)
            codes[code] += 1
            if fault:
                faults.append([seed, fault])
    return {"codes": codes, "faults": faults}


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
