"""What a build spends its time on: CPU seconds of each stage, the peak of memory by its end, and
the forecast.

.venv/bin/python scripts/research/build_time.py MODEL OUT [--no-calibrate]
"""

import argparse
import resource
import time
from collections.abc import Sequence
from pathlib import Path

from builders.build import BuildOptions, build

stages: dict[str, float] = {}
peaks: dict[str, float] = {}  # GB
last = ("opening", time.process_time())


def progress(stage: str, done: int, total: int) -> None:
    global last
    now = time.process_time()
    stages[last[0]] = stages.get(last[0], 0.0) + now - last[1]
    peaks[last[0]] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    last = (stage, now)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--no-calibrate", action="store_true")
    args = parser.parse_args(argv)
    started = time.perf_counter()
    manifest = build(
        BuildOptions(args.model, args.out, force=True, calibrate=not args.no_calibrate),
        progress,
        lambda sentence: print(sentence, flush=True),
    )
    progress("", 0, 0)
    for stage, seconds in stages.items():
        print(f"{stage:16} {seconds:6.1f} s of CPU, {peaks[stage]:.2f} GB at most so far")
    print(f"{'all':16} {sum(stages.values()):6.1f} s, {time.perf_counter() - started:.0f} s passed")
    million = manifest.model.num_parameters / 1e6
    print(f"{sum(stages.values()) / million:.2f} s of CPU per million parameters")
    print(manifest.policy.calibration)
    for named in manifest.policies:
        print(named.name, named.policy.calibration)


if __name__ == "__main__":
    main()
