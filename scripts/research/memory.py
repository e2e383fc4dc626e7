"""The stages of a build and of a run, each in a process of its own that reports its memory."""

import json
import subprocess
import sys
from collections.abc import Sequence

# Each stage prints the process's peak, and what of its present memory is its own (anonymous) and
# what is mapped files, which the system can take back at any time.
REPORT = """
def report(stage):
    lines = [line.split() for line in open("/proc/self/status")]
    mib = {words[0].rstrip(":"): int(words[1]) / 1024 for words in lines if words[-1] == "kB"}
    print(json.dumps([stage, mib["VmHWM"], mib["RssAnon"], mib["RssFile"]]))
"""
BUILD = """
import json, sys
from pathlib import Path
from builders.build import BuildOptions, build
report("build: libraries imported")
build(BuildOptions(sys.argv[1], Path(sys.argv[2]), force=True, calibrate=False))
report("build: done")
"""
RUN = """
import json, sys, river_trt
report("run: river_trt imported")
engine = river_trt.load(sys.argv[2], max_batch_size=1, max_seq_len=1024)
report("run: engine loaded (1 row of 1024)")
config = river_trt.GenerationConfig(
    max_new_tokens=64, ignore_eos=True, temperature=0, repetition_penalty=1
)
engine.generate([[1, 2, 3]], config)
report("run: 64 tokens generated")
"""


def measure(code: str, arguments: Sequence[str]) -> list[list[str | float]]:
    done = subprocess.run(
        [sys.executable, "-c", REPORT + code, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
