"""An engine for the GPU end to end where there is none: the CLI, over the kernels' CPU shim."""

import json
import os
import subprocess
import sys
from pathlib import Path

from river_trt.backends.torch.tuner import ATTENTION, PACKED_LINEAR
from tests.plugins import native

SCRIPT = Path(__file__).with_name("engine.py")


def test_an_engine_is_built_and_run_by_the_cli_as_on_a_gpu(tmp_path):
    library = native.build("river_shim_torch") / "tests/torch/libriver_shim_torch.so"
    command = [sys.executable, SCRIPT, "--out", tmp_path, "--library", library]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "engine.json").read_text())
    assert report["problems"] == []
    assert {"tau inf", "tau 0.97", "tau -inf", "lossless"} <= report["modes"].keys()
    assert report["build"]["manifest"]["backend"]["name"] == "torch"
    assert report["modes"]["three rows together"] == "3 of 3 texts as alone"
    program = json.loads((tmp_path / "build" / "engine" / "engine" / "program.json").read_text())
    takes = [(call["name"], {"of": "o_squares"} in call["args"]) for call in program["calls"]]
    assert [name for name, given in takes if given] == [
        f"layers.{layer}.{module}"
        for layer in range(3)
        for module in ("self_attn.o_proj", "mlp.gate_up_proj")
    ], "no norm of the MLP measures what o has seen"
    gates = [call["name"] for call in program["calls"] if {"of": "qkv_squares"} in call["args"]]
    assert gates == [f"layers.{layer}.self_attn.qkv_proj" for layer in (1, 2)]


def test_the_speed_of_an_engine_is_measured_through_the_cli_and_generate(tmp_path):
    library = native.build("river_shim_torch") / "tests/torch/libriver_shim_torch.so"
    script = Path(__file__).with_name("engine_bench.py")
    command = [sys.executable, script, "--out", tmp_path, "--library", library]
    for more in (["--only-build"], []):
        done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((tmp_path / "speed.json").read_text())["records"]
    assert {record["backbone_layers"] for record in records} == {1.0, 3.0}
    assert len((tmp_path / "speed.md").read_text().splitlines()) == 4 + len(records)


def test_variants_are_measured_as_an_engine_runs_them(tmp_path):
    """Every kind of call, over the shim: what it takes is planted."""
    linear = [None] * 3 + [{"of": "bank"}, 64, 64] + [None] * 4 + [False, None, True, True]
    attention = [None] * 8 + [2, 1, 0.1, 0, 0.0, None, None]
    calls = [(PACKED_LINEAR, linear), (ATTENTION, attention)]
    bank = {"name": "bank", "op": "river_trt_cuda.pack.default", "args": [None, None, None, 128]}
    program = json.dumps(
        {"prepare": [bank], "calls": [{"op": op, "args": args} for op, args in calls]}
    )
    library = native.build("river_shim_torch") / "tests/torch/libriver_shim_torch.so"
    code = f"""
import torch
torch.ops.load_library({str(library)!r})
from river_trt.backends.torch import timing, tuning
from river_trt.backends.torch.tuner import LinearCase
tuning.DEVICE, timing.SPREAD_BYTES, timing.MIN_LAUNCHES = "cpu", 13_000, 2
timing.graph_milliseconds = lambda work: work() or 0.002
kinds = ({{"norm": True}}, {{"norm": True, "silu_mul": True}}, {{"flags_early": True}})
for rows, kind in enumerate(kinds, 1):
    case = LinearCase(64, 128, 64, rows, True, chooses=True, **kind)
    assert [tuning.measure(case, variant) for variant in (0, 3)] == [1.0, 1.0]
linear = tuning._random_linear(case)
assert linear.copies == 2 and linear.flags[True].all() and not linear.flags[False].any()
head = LinearCase(64, 128, 64, 1, False)
assert tuning.measure(head, 0) == 1.0

from river_trt.backends.torch import attention_tuning
from river_trt.backends.torch.tuner import AttentionCase
ops = torch.ops.river_trt_cuda
attention_tuning.DEVICE, timing.SPREAD_BYTES = "cpu", 50_000
case = AttentionCase(2, 2, 1, 32, 96, 0)
names = ops.attention_variants()
times = [attention_tuning.measure(case, number) for number in range(len(names))]
assert times[0] == 1.0 and times[names.index("counters, 8 warps")] == 1.0, times
assert len(attention_tuning._random_attention(case).k_caches) == 2
# At a load: measured once, set, and kept.
heard = []
tuning.card, tuning.free_bytes = lambda: "the shim", lambda: 1 << 40
program = {program!r}
for _ in range(2):
    tuning.tune_at_load(program, 32, 1, 96, lambda *said: heard.append(said))
assert [said[1:] for said in heard] == [(0, 1), (1, 1)] * 2, heard
tuning.use_tuned()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        cwd=native.ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
