"""Where things lie: no two overlap, no address changes, every size fits its profile."""

import numpy as np
import pytest

from river_trt.backends.tensorrt.memory import ALIGNMENT, Block, CachePlan
from river_trt.backends.tensorrt.opening import check_plugin_abi
from river_trt.backends.tensorrt.plan import EngineSpec, StepShape
from river_trt.errors import EngineError, RiverError
from river_trt.plugin.cache import LibraryInfo, store_library
from river_trt.spec import ModelShape
from tests.river_trt.backends.tensorrt.doubles import (
    HEAD_DIM,
    HIDDEN,
    KV_HEADS,
    SLOTS,
    VOCAB,
    FakeCuda,
    FakeEngine,
    L,
)

DECODE, PREFILL = StepShape(4, 1, 1), StepShape(1, 16, 16)


@pytest.fixture
def spec() -> EngineSpec:
    return EngineSpec.read(FakeEngine(FakeCuda()), L)


def test_a_block_holds_every_tensor_of_the_largest_step(spec):
    names = ("input_ids", "past_lengths", "logit_indices", "tau", "exit_layer", "logits")
    tensors = [spec.tensors[name] for name in names]
    block = Block.of(tensors, [DECODE, PREFILL])
    places = [(block.offsets[t.name], max(map(t.num_bytes, (DECODE, PREFILL)))) for t in tensors]
    ends = [start + size for start, size in places]
    assert all(start % ALIGNMENT == 0 for start, _ in places)
    assert all(end <= start for end, (start, _) in zip(ends, places[1:], strict=False))
    assert ends[-1] <= block.num_bytes
    memory = np.zeros(block.num_bytes, np.uint8)
    block.view(memory, spec.tensors["logits"], PREFILL)[...] = 1
    block.view(memory, spec.tensors["input_ids"], DECODE)[...] = 7
    assert block.view(memory, spec.tensors["input_ids"], DECODE).shape == (4, 1)
    assert block.view(memory, spec.tensors["logits"], PREFILL).shape == (1, 16, VOCAB)
    assert (block.view(memory, spec.tensors["logits"], PREFILL) == 1).all()


def test_the_cache_is_one_allocation_without_overlaps(spec):
    shape = ModelShape(L, HIDDEN, 4, KV_HEADS, HEAD_DIM, VOCAB, SLOTS)
    plan = CachePlan.of(spec, shape, rows=3, slots=10)
    row_bytes = KV_HEADS * 10 * HEAD_DIM * 2
    assert plan.row_bytes == row_bytes
    starts = [plan.offset(tensor, row) for tensor in range(2 * L) for row in range(3)]
    assert starts == sorted(starts)
    assert min(np.diff(starts)) >= row_bytes
    assert starts[-1] + row_bytes <= plan.num_bytes
    assert all(plan.offset(tensor, 0) % ALIGNMENT == 0 for tensor in range(2 * L))


def test_the_profile_of_a_step(spec):
    assert spec.choose_profile(StepShape(1, 1, 1)).index == 0
    assert spec.choose_profile(StepShape(4, 1, 1)).index == 0
    assert spec.choose_profile(StepShape(1, 2, 1)).index == 1
    assert spec.choose_profile(PREFILL).index == 1
    for step in (StepShape(5, 1, 1), StepShape(2, 2, 1), StepShape(1, 17, 1)):
        with pytest.raises(RiverError, match="fits no profile of this engine"):
            spec.choose_profile(step)


def test_slots_of_a_cache_that_was_fixed_when_built(spec):
    assert spec.cache_slots(10) == 10
    fixed = EngineSpec.read(FakeEngine(FakeCuda(), "portable"), L)
    assert fixed.cache_slots(10) == SLOTS
    for engine in (spec, fixed):
        with pytest.raises(RiverError, match=f"max_seq_len 65 exceeds the {SLOTS} slots"):
            engine.cache_slots(SLOTS + 1)


def test_a_plugin_of_another_major_is_refused_before_it_crashes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    built = tmp_path / "libriver_trt_plugin.so"
    built.write_bytes(b"a library")
    info = LibraryInfo("tensorrt", "hash", "11.1.0", "11", "13.0", "12", (), ())
    library = store_library(built, info)
    check_plugin_abi(library.path, "11.0.2")
    with pytest.raises(EngineError, match=r"is for TensorRT 11\.x but 10\.16\.1 is installed"):
        check_plugin_abi(built, "10.16.1")  # wherever RIVER_TRT_PLUGIN has its copy
