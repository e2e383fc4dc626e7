"""What a trace says: every phase of every layer, on which thread, of how many bytes."""

from collections import Counter
from itertools import pairwise

import pytest

import river_trt
from builders.build import BuildOptions, build
from river_trt.benchmark.arms import ALL_RIVER, FULL_DEPTH
from river_trt.benchmark.measure import EngineArm
from river_trt.benchmark.reads import cache_bytes
from river_trt.benchmark.trace import TRACED_TOKENS, trace
from river_trt.cli.main import main
from tests.builders.tiny_engines import TINY, build_pair
from tests.builders.tiny_llama import save_tiny_llama

LAYERS, PROMPT = 4, list(range(3, 12))
LINEARS = ("qkv", "o", "gate_up", "down")
OF_A_LAYER = ("append", "attend", "merge", "norm_mlp", "round_down", "gate", *LINEARS)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    save_tiny_llama(folder / "model", **TINY)
    kinds = {"backbone_bits": 8, "lm_head_bits": 8, "kv_cache": "float16", "group_size": 32}
    build(BuildOptions(str(folder / "model"), folder / "engine", calibrate=False, **kinds))
    return folder / "engine"


def traced(directory, arm, threads):
    """(engine, the steps, the events of each step but those; what each thread is called)."""
    engine = river_trt.load(directory, threads=threads)
    events = trace(EngineArm(engine, arm), [[PROMPT]], 0, "batch 1")
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    spans = sorted((e for e in events if e["ph"] == "X"), key=lambda event: event["ts"])
    steps = [e for e in spans if e["name"] == "step"]
    ends = [step["ts"] + step["dur"] + 2 for step in steps]  # ONNX Runtime cuts off microseconds
    parts = [
        [e for e in spans if e is not step and step["ts"] - 1 <= e["ts"] <= end]
        for step, end in zip(steps, ends, strict=True)
    ]
    return engine, steps, parts, names


def phases(part, names):
    return [e for e in part if names[e["tid"]].startswith("kernels") and e["name"] != "wait"]


def test_every_phase_of_every_layer_is_there_once(directory):
    _, steps, parts, names = traced(directory, FULL_DEPTH, 1)
    assert sorted(names.values()) == ["kernels, thread 1", "onnxruntime"]
    sizes = [tuple(step["args"][key] for key in ("rows", "tokens", "past")) for step in steps]
    assert sizes == [(1, 9, 0), *((1, 1, 9 + step) for step in range(TRACED_TOKENS - 1))]
    for part in parts[1:]:  # 9 tokens have phases of their own
        found = Counter((e["args"]["layer"], e["name"]) for e in phases(part, names))
        wanted = {(layer, name): 1 for layer in range(1, LAYERS + 1) for name in OF_A_LAYER}
        assert found == wanted | {(0, name): 1 for name in ("gate", "round_head", "head")}


def test_phases_lie_one_after_another_inside_their_operator(directory):
    _, _, parts, names = traced(directory, FULL_DEPTH, 1)
    for part in parts:
        blocks = [e for e in part if e["name"].startswith("block.")]
        assert len(blocks) == LAYERS + 1
        own = [e for e in part if names[e["tid"]].startswith("kernels")]
        for before, after in pairwise(own):
            assert before["ts"] + before["dur"] <= after["ts"] + 1e-3
        for block in blocks:
            begin, end = block["ts"] - 2, block["ts"] + block["dur"] + 2
            inside = [e for e in own if begin <= e["ts"] and e["ts"] + e["dur"] <= end]
            assert len(inside) >= 4  # phases, each with its wait
            assert sum(e["dur"] for e in inside) <= block["dur"] + 4


@pytest.mark.parametrize(("arm", "depth"), [(FULL_DEPTH, LAYERS), (ALL_RIVER, 1)])
@pytest.mark.parametrize("threads", [1, 2])
def test_bytes_are_those_that_inspect_counts(directory, threads, arm, depth):
    engine, steps, parts, names = traced(directory, arm, threads)
    counts = engine.manifest.bytes_per_layer
    backbone, river = depth * counts.backbone_layer, (LAYERS - depth) * counts.river_layer
    for step, part in zip(steps[1:], parts[1:], strict=True):
        cache = cache_bytes(engine.manifest, step["args"]["past"], 1)
        found = sum(e["args"]["bytes"] for e in phases(part, names))
        assert found == backbone + river + counts.lm_head + cache
        once = Counter((e["tid"], e["args"]["layer"], e["name"]) for e in phases(part, names))
        assert max(once.values()) == 1
        of_runtime = {e["name"]: e["args"]["bytes"] for e in part if "operator" in e["args"]}
        assert counts.embedding in of_runtime.values()
    attended = sum(e["args"]["bytes"] for e in parts[0] if e["name"] == "attend")
    assert attended == cache_bytes(engine.manifest, len(PROMPT) - 1, 1)  # once, for all its tokens


def test_onnxruntimes_own_operators_are_shown_by_name(tmp_path):
    pair = build_pair(tmp_path, kernels="onnxruntime")
    _, steps, parts, names = traced(pair.directory, FULL_DEPTH, 1)
    assert len(steps) == TRACED_TOKENS and set(names.values()) == {"onnxruntime"}
    for part in parts:
        assert {"GroupQueryAttention", "If"} <= {e["args"].get("operator") for e in part}


def test_an_engine_goes_on_as_before(directory):
    config = river_trt.GenerationConfig(max_new_tokens=8, ignore_eos=True, temperature=0.0)
    engine = river_trt.load(directory)
    (before,) = engine.generate([PROMPT], config)
    trace(EngineArm(engine, FULL_DEPTH), [[PROMPT]], 0, "batch 1")
    (after,) = engine.generate([PROMPT], config)
    assert after.token_ids == before.token_ids


def test_a_record_that_is_full_is_an_error(directory, monkeypatch):
    monkeypatch.setattr("river_trt.backends.onnxruntime.tracing.MOST_EVENTS", 50)
    engine = river_trt.load(directory, threads=1)
    with pytest.raises(river_trt.RiverError, match="a trace holds 50 phases and this one has"):
        trace(EngineArm(engine, FULL_DEPTH), [[PROMPT]], 0, "batch 1")


def test_a_file_that_cannot_be_written_is_an_error(directory, tmp_path, capsys):
    short = ["--mode", "full", "--new-tokens", "2", "--rounds", "1", "--context", "4"]
    assert main(["bench", str(directory), *short, "--trace", str(tmp_path)]) == 2
    assert "cannot be written (Is a directory)" in capsys.readouterr().err
