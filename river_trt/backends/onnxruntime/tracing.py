"""Timelines of steps: ONNX Runtime's own profile, and the native kernels' phases inside it."""

import ctypes
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from river_trt.backends.base import Span
from river_trt.errors import RiverError
from river_trt.native_library import BLOCKS

MOST_EVENTS = 1 << 18  # of one trace
RUNTIME = "onnxruntime"  # the thread that calls it
NODE_SUFFIX = "_kernel_time"
# Operators whose phases say what they read, and those that hold other operators.
WITHIN = (*BLOCKS.values(), "Head", "If")

# Sizes of the steps that ran: rows, tokens of each, tokens that the longest row holds already.
StepSizes = tuple[int, int, int]


class _Event(ctypes.Structure):
    """TraceEvent of plugins/cpu/trace.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("start", ctypes.c_int64),
        ("worked", ctypes.c_int64),
        ("ended", ctypes.c_int64),
        ("bytes", ctypes.c_int64),
        ("layer", ctypes.c_int32),
        ("thread", ctypes.c_int32),
        ("chunks", ctypes.c_int32),
    )


def kernel_spans(library: Path, run: Callable[[], object]) -> list[Span]:
    """What the library's threads do while `run` runs: of each phase its work, and the wait after.

    Raises RiverError for more than fit into the record.
    """
    kernels = ctypes.CDLL(str(library))
    kernels.river_trace_start.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    kernels.river_trace_stop.restype = ctypes.c_size_t
    events = (_Event * MOST_EVENTS)()
    kernels.river_trace_start(events, MOST_EVENTS)
    try:
        run()
    finally:
        count = kernels.river_trace_stop()
    if count > MOST_EVENTS:
        raise RiverError(
            f"a trace holds {MOST_EVENTS} phases and this one has {count}: trace shorter prompts"
        )
    threads: dict[int, str] = {}
    spans = []
    for event in events[:count]:
        thread = threads.setdefault(event.thread, f"kernels, thread {len(threads) + 1}")
        name = event.name.decode()
        args = {"layer": event.layer, "chunks": event.chunks, "bytes": event.bytes}
        spans.append(Span(name, thread, event.start, event.worked - event.start, args))
        of = {"layer": event.layer, "of": name}
        spans.append(Span("wait", thread, event.worked, event.ended - event.worked, of))
    return spans


def runtime_spans(profile: Path, began: int, sizes: Sequence[StepSizes], first: int) -> list[Span]:
    """The operators and steps of a profile file, from step number `first` on (from 0).

    began: when profiling did, in ns. sizes: of all steps of the file, in their order.
    """
    spans: list[Span] = []
    for event in json.loads(profile.read_text(encoding="utf-8")):
        if event["cat"] == "Node" or event["name"] == "model_run":
            args = _operator(event["args"]) if event["cat"] == "Node" else {}
            name = event["name"].removesuffix(NODE_SUFFIX)
            start, length = began + 1000 * event["ts"], 1000 * event["dur"]
            spans.append(Span(name, RUNTIME, start, length, args))
    steps = sorted((s for s in spans if s.name == "model_run"), key=lambda span: span.start)
    assert len(steps) == len(sizes), "ONNX Runtime notes every run"
    named = [
        Span("step", RUNTIME, s.start, s.length, {"rows": rows, "tokens": seq, "past": past})
        for s, (rows, seq, past) in zip(steps, sizes, strict=True)
    ]
    since = steps[first].start
    return [*named[first:], *(s for s in spans if s.name != "model_run" and s.start >= since)]


def _operator(args: dict[str, Any]) -> dict[str, int | str]:
    operator = args["op_name"]
    weights = int(args.get("parameter_size", 0))
    if operator == "Gather" and weights:  # some rows of it
        weights = int(args["output_size"])
    return {"operator": operator, "bytes": 0 if operator in WITHIN else weights}
