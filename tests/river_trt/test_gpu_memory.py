"""What an engine takes on a GPU is known, and refused, before anything is loaded."""

import dataclasses

import pytest

from river_trt.cli import inspect
from river_trt.errors import RiverError
from river_trt.gpu_memory import GpuMemory, check_fits, gpu_memory
from river_trt.manifest import BackendInfo, FileInfo, PrecisionInfo
from river_trt.spec import ModelShape

LLAMA_8B = ModelShape(32, 4096, 32, 8, 128, 128256, 8192)
GB = 10**9
FILES = ("program.json", "weights.safetensors")


@pytest.fixture
def manifest(make_manifest):
    """Of a Llama 8B with both banks."""
    made = make_manifest(
        files={name: FileInfo(20 * GB, "0" * 64) for name in FILES},
        engine_file="program.json",
        backend=BackendInfo("torch", "2.11", "cuda"),
        precision=PrecisionInfo("bfloat16", 16, "bfloat16", "bfloat16"),
    )
    return dataclasses.replace(
        made,
        model=dataclasses.replace(made.model, shape=LLAMA_8B),
        policy=dataclasses.replace(made.policy, tau=(1.0,) * 32, pinned=()),
    )


def test_weights_cache_and_work_add_up(manifest):
    needed = gpu_memory(manifest, "weights.safetensors", rows=10, cache_length=4096)
    assert needed.weights == 20 * GB
    assert needed.cache == 10 * 4096 * 131072  # 128 KiB a token, as of Llama 3.1 8B in bfloat16
    assert 0.3 * GB < needed.work < 1 * GB
    assert needed.total == needed.weights + needed.cache + needed.work


def test_too_little_memory_is_refused_with_both_sums_and_a_remedy():
    needed = GpuMemory(20 * GB, 5 * GB, GB)
    check_fits(needed, 26 * GB, 10, 4096)
    with pytest.raises(RiverError, match="needs 26.0 GB .* 25.9 GB are free; lower max_seq_len"):
        check_fits(needed, 26 * GB - 10**8, 10, 4096)
    with pytest.raises(RiverError, match="10.0 GB are free; build it with fewer --lm-head-bits"):
        check_fits(needed, 10 * GB, 10, 4096)
    many = GpuMemory(20 * GB, 5 * GB, 90 * GB, of_rows=89 * GB)
    with pytest.raises(RiverError, match="80.0 GB are free; lower max_seq_len or max_batch_size"):
        check_fits(many, 80 * GB, 10**5, 4096)


@pytest.mark.parametrize("free", [None, 80 * GB])
def test_inspect_says_what_is_needed_and_free(manifest, monkeypatch, free):
    monkeypatch.setattr(inspect, "free_gpu_memory", lambda: free)
    text = dict(inspect.facts(manifest))["GPU memory"]
    assert text.startswith("26.") and "20.0 weights" in text and "10 rows of 4096 slots" in text
    assert text.endswith("80.0 GB are free" if free else "to work in")


def test_an_engine_of_a_cpu_says_nothing_of_it(make_manifest):
    assert "GPU memory" not in dict(
        inspect.facts(
            make_manifest(
                files={name: FileInfo(1, "0" * 64) for name in FILES}, engine_file="program.json"
            )
        )
    )
