"""Where the time of a step goes, as a file that https://ui.perfetto.dev opens."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from river_trt.backends.base import Span, TracesSteps
from river_trt.benchmark.measure import EngineArm, Groups
from river_trt.errors import RiverError

TRACED_TOKENS = 4  # the prefill's and three decode steps'


def check_traced(contestants: Sequence[EngineArm]) -> None:
    """RiverError for an engine of a backend that records nothing."""
    for contestant in contestants:
        manifest = contestant.engine.manifest
        if not isinstance(contestant.engine.stepper.session, TracesSteps):
            raise RiverError(
                f"--trace needs engines of onnxruntime, and this one is of {manifest.backend.name}"
            )


def trace(contestant: EngineArm, groups: Groups, number: int, title: str) -> list[dict[str, Any]]:
    """The prefill of the first group and some decode steps, as process `number` of a trace.

    Events of Chrome's trace format, times in microseconds from the first one on.
    """
    session = contestant.engine.stepper.session
    assert isinstance(session, TracesSteps)
    spans = session.trace(lambda: contestant.run(groups[:1], TRACED_TOKENS))
    threads = {thread: tid for tid, thread in enumerate(sorted({s.thread for s in spans}))}
    names = [("process_name", 0, f"{contestant.name}, {title}")]
    names += [("thread_name", tid, thread) for thread, tid in threads.items()]
    zero = min(span.start for span in spans)
    return [
        *(
            {"ph": "M", "name": what, "pid": number, "tid": tid, "args": {"name": name}}
            for what, tid, name in names
        ),
        *(_event(span, number, threads[span.thread], zero) for span in spans),
    ]


def write_trace(path: Path, events: Sequence[dict[str, Any]]) -> None:
    """RiverError where the file cannot be written."""
    try:
        path.write_text(json.dumps({"traceEvents": list(events), "displayTimeUnit": "ms"}))
    except OSError as error:
        raise RiverError(f"--trace: {path} cannot be written ({error.strerror})") from error


def _event(span: Span, pid: int, tid: int, zero: int) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": span.name,
        "pid": pid,
        "tid": tid,
        "ts": (span.start - zero) / 1000,
        "dur": span.length / 1000,
        "args": dict(span.args),
    }
