"""The TensorRT session over doubles of CUDA and TensorRT: what it computes, calls and refuses."""

import gc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import river_trt
from river_trt.backends.tensorrt import cuda as cuda_calls
from river_trt.backends.tensorrt import opening
from river_trt.backends.tensorrt.session import stream_weights
from river_trt.cli.main import main
from river_trt.config import GenerationConfig
from river_trt.engine_dir import hash_files, write_manifest
from river_trt.errors import EngineError, RiverError
from river_trt.layer_record import RECORD_FILE, LayerRecord, NetworkLayer
from river_trt.manifest import BackendInfo, ModelInfo, PolicyInfo, PrecisionInfo
from river_trt.spec import ExitPolicy, ModelShape
from tests.river_trt.backends.tensorrt.doubles import (
    HEAD_DIM,
    HIDDEN,
    KV_HEADS,
    SLOTS,
    VOCAB,
    FakeCuda,
    FakeEngine,
    L,
    fake_trt,
)
from tests.river_trt.conftest import manifest_of

SHAPE = ModelShape(L, HIDDEN, 4, KV_HEADS, HEAD_DIM, VOCAB, SLOTS)
TEXT = GenerationConfig(max_new_tokens=8, ignore_eos=True)


@pytest.fixture
def directory(tmp_path):
    def make(mode="plugin", capability="9.0", version="10.16.0", name="tensorrt", **backend):
        (tmp_path / "engine.trt").write_bytes(b"plan")
        manifest = manifest_of(
            has_tokenizer=False,
            model=ModelInfo("fake", "llama", "0" * 64, SHAPE, (0,), 1, False, 1),
            backend=BackendInfo(name, version, "h100", capability, mode=mode, **backend),
            precision=PrecisionInfo("float16", 16, "float16", "float16"),
            policy=PolicyInfo("similarity", (0.9,) * L),
            engine_file="engine.trt",
            files=hash_files(tmp_path),
        )
        write_manifest(tmp_path, manifest)
        return tmp_path

    return make


@pytest.fixture
def install(monkeypatch):
    """Puts the doubles in the place of TensorRT, CUDA and the plugin library."""

    def put(cuda: FakeCuda, trt) -> None:
        monkeypatch.setattr(opening, "load_library", lambda name: trt)
        monkeypatch.setattr(cuda_calls, "import_module", lambda name: cuda)
        monkeypatch.setattr(opening, "built_library", lambda part, version: Path(__file__))

    return put


@pytest.fixture
def load(directory, install):
    def make(mode="plugin", cache="HALF", **options):
        cuda = FakeCuda()
        engine = FakeEngine(cuda, mode, cache)
        trt = fake_trt(engine)
        install(cuda, trt)
        options = {"max_batch_size": 3, "max_seq_len": SLOTS, "prefill_chunk": 16} | options
        return river_trt.load(directory(mode), **options), cuda, engine, trt

    return make


@pytest.mark.parametrize("mode", ["plugin", "portable"])
def test_texts_of_several_prompts(load, mode):
    """Prefill in chunks, rows that join and move, decode together: each text is its own."""
    engine, *_ = load(mode)
    prompts = [[3], list(range(5, 28)), [2, 9]]
    results = engine.generate(prompts, TEXT)
    assert [r.token_ids for r in results] == [
        [(prompt[-1] + 1 + i) % VOCAB for i in range(8)] for prompt in prompts
    ]


def test_policy_reaches_the_engine(load):
    engine, *_ = load()
    ids = np.array([[4, 5]])
    for tau, exit_layer in ((-np.inf, 1), (np.inf, L)):
        _, found = engine.forward(ids, ExitPolicy.uniform(L, tau))
        assert (found == exit_layer).all()


def test_a_decode_step_is_captured_once_and_replayed(load):
    engine, cuda, trt_engine, _ = load()
    engine.generate([[2, 3]], TEXT)
    calls = cuda.count()
    # One prefill step as it is; of seven decode steps the first warms up, the second is captured.
    assert calls["cudaStreamBeginCapture"] == calls["cudaStreamEndCapture"] == 1
    assert calls["cudaGraphLaunch"] == 6
    engine.generate([list(range(1, 21))], TEXT)
    assert cuda.count()["cudaStreamBeginCapture"] == 1
    assert cuda.count()["cudaGraphLaunch"] == 6 + 7
    # The decode shape, the short prefill steps of 2 and of 4 tokens, and the prefill profile.
    assert [context.profile for context in trt_engine.contexts] == [1, 0, 1, 1]


def test_another_batch_has_a_context_and_graph_of_its_own(load):
    """Plugins give back their scratch when a context's shapes change: a graph must not outlive."""
    engine, cuda, trt_engine, _ = load()
    for prompts in ([[3]], [[3], [5]], [[3]], [[3], [5]]):
        engine.generate(prompts, TEXT)
    decode = [c for c in trt_engine.contexts if c.profile == 0]
    assert [c.shapes["input_ids"] for c in decode] == [(1, 1), (2, 1)]
    # A lone row's place is row 0; of two rows the second prefills in row 1, and both begin at 0.
    assert cuda.count()["cudaStreamBeginCapture"] == 3


@pytest.mark.parametrize("mode", ["plugin", "portable"])
def test_a_step_is_one_copy_in_and_one_out_and_allocates_nothing(load, mode):
    engine, cuda, *_ = load(mode)
    engine.generate([[3]], TEXT)
    before = cuda.count()
    cuda.calls.clear()
    cuda.copied.clear()
    engine.generate([[8]], TEXT)
    steps = 8
    calls = cuda.count()
    assert before["cudaMalloc"] > 0 and calls["cudaMalloc"] == calls["cudaHostAlloc"] == 0
    assert calls["cudaMemcpyAsync"] == 2 * steps and calls["cudaStreamSynchronize"] == steps
    kinds = [kind for kind, _ in cuda.copied]
    assert kinds == [1, 2] * steps
    assert cuda.copied[-1][1] < 256 + VOCAB * 4 + 1  # exit layers and one row of logits


def test_conditionals_are_never_captured(load):
    engine, cuda, trt_engine, _ = load("portable")
    engine.generate([[2, 3]], TEXT)
    assert "cudaStreamBeginCapture" not in cuda.calls
    assert len(trt_engine.contexts) == 2


def test_streamed_weights_are_never_captured(load, monkeypatch):
    monkeypatch.setattr(FakeEngine, "streamable_weights_size", 100)
    engine, cuda, trt_engine, _ = load()  # the double's memory is not more than the reserve
    engine.generate([[3]], TEXT)
    assert trt_engine.weight_streaming_budget_v2 == 0
    assert "cudaStreamBeginCapture" not in cuda.calls


def test_weights_get_what_is_free_but_a_reserve():
    engine = SimpleNamespace(streamable_weights_size=6 << 30)
    assert stream_weights(engine, 5 << 30)
    assert engine.weight_streaming_budget_v2 == 4 << 30
    assert not stream_weights(engine, 8 << 30)
    assert engine.weight_streaming_budget_v2 == 6 << 30


def test_rows_of_the_cache(load):
    engine, *_ = load()
    engine.forward(np.array([[4, 5, 6]]), first_row=1)
    slots = engine.read_cache(1, 3)
    assert slots.shape == (L, 2, KV_HEADS, 3, HEAD_DIM) and slots.dtype == np.float32
    np.testing.assert_array_equal(slots[..., 0], np.broadcast_to([4, 5, 6], slots.shape[:-1]))
    engine.stepper.session.move_row(1, 0, 2)
    np.testing.assert_array_equal(engine.read_cache(0, 2), slots[..., :2, :])
    assert (engine.read_cache(0, 3)[..., 2, :] == 0).all()  # a fresh cache is zeros


def test_no_hidden_states_are_shown(load):
    engine, *_ = load()
    with pytest.raises(RiverError, match="the backend tensorrt do not show the hidden states"):
        engine.stepper.hidden_states(np.array([1, 2]))


def test_a_bfloat16_cache_is_read_as_float32(load):
    engine, *_ = load(cache="BF16")
    engine.forward(np.array([[0x3F80]]) % VOCAB)  # the double writes ids as raw bits
    engine.stepper.session._cuda.upload(
        engine.stepper.session._device_cache,
        np.full(4, 0x4049, np.uint16),  # 3.140625
        None,
    )
    assert (engine.read_cache(0, 1)[0, 0, 0, 0] == 3.140625).all()


def test_the_plugin_library_is_registered_in_plugin_mode_only(load):
    assert load("plugin")[3].loaded == [__file__]
    assert load("portable")[3].loaded == []


def test_a_step_that_no_profile_takes(load):
    engine, *_ = load(prefill_chunk=32)
    with pytest.raises(RiverError, match=r"1 rows of 17 tokens .* fits no profile .*up to 4 rows"):
        engine.generate([list(range(17))], TEXT)


def test_sizes_beyond_the_profiles_are_refused_when_loading(load):
    with pytest.raises(RiverError, match="max_batch_size 5 exceeds this engine's profile of 4 row"):
        load(max_batch_size=5)


def test_a_cache_that_does_not_fit_the_gpu(directory, install):
    cuda = FakeCuda(free=20_000)
    install(cuda, fake_trt(FakeEngine(cuda)))
    with pytest.raises(RiverError, match=r"the KV cache needs 0\.0 GiB and the GPU has.*lower max"):
        river_trt.load(directory(), max_batch_size=3, max_seq_len=SLOTS)


def test_an_engine_for_another_gpu(directory, install):
    cuda = FakeCuda(capability=(8, 0))
    install(cuda, fake_trt(FakeEngine(cuda)))
    with pytest.raises(EngineError, match=r"for compute capability 9\.0 \(target h100\).*has 8\.0"):
        river_trt.load(directory())
    river_trt.load(directory(capability="8.0"), max_batch_size=3, max_seq_len=SLOTS)
    river_trt.load(directory(capability="8.0+"), max_batch_size=3, max_seq_len=SLOTS)


def test_the_gpu_may_be_chosen_and_is_chosen_in_every_thread(load):
    engine, cuda, *_ = load(device="cuda:1")
    assert cuda.device == 1
    cuda.device = 0  # as a new thread has it
    engine.generate([[1]], TEXT)
    assert cuda.device == 1


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:2", "there is no GPU 2: this machine has 2"),
        ("cpu", "is for target h100, so it runs on cuda only"),
        ("gpu", "device must be cpu, cuda or cuda:N"),
        ("cuda:-1", "device must be cpu, cuda or cuda:N"),
    ],
)
def test_a_device_that_is_not_there(load, device, message):
    with pytest.raises(RiverError, match=message):
        load(device=device)


@pytest.mark.parametrize("recorded", [True, False])
def test_host_code_runs_only_where_the_build_asked_for_it(directory, install, recorded):
    cuda = FakeCuda()
    engine = FakeEngine(cuda)
    engine.has_host_code = True
    install(cuda, fake_trt(engine, complaint="host code is not allowed"))
    path = directory(version_compatible=recorded)
    if recorded:
        river_trt.load(path, max_batch_size=2)
    else:
        with pytest.raises(EngineError, match="host code is not allowed"):
            river_trt.load(path, max_batch_size=2)


def test_an_engine_of_another_major(directory, install):
    cuda = FakeCuda()
    install(cuda, fake_trt(FakeEngine(cuda), version="11.1.0"))
    with pytest.raises(EngineError, match=r"built for TensorRT 10\.16\.0 but 11\.1\.0 is install"):
        river_trt.load(directory())


def test_an_engine_that_tensorrt_does_not_load(directory, install):
    cuda = FakeCuda()
    install(cuda, fake_trt(None, complaint="the version tag does not match"))
    with pytest.raises(EngineError, match=r"cannot load .*: the version tag does not match"):
        river_trt.load(directory())


def test_an_engine_that_is_no_river_engine(directory, install):
    cuda = FakeCuda()
    other = FakeEngine(cuda)
    del other.tensors["v_cache_out.1"]
    install(cuda, fake_trt(other))
    with pytest.raises(EngineError, match=r"not a river engine: output v_cache_out\.1 is missing"):
        river_trt.load(directory())


def test_a_missing_plugin_library(directory, install, monkeypatch, tmp_path):
    cuda = FakeCuda()
    install(cuda, fake_trt(FakeEngine(cuda)))
    monkeypatch.undo()
    monkeypatch.setattr(opening, "load_library", lambda name: fake_trt(FakeEngine(cuda)))
    monkeypatch.setattr(cuda_calls, "import_module", lambda name: cuda)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.delenv("RIVER_TRT_PLUGIN", raising=False)
    message = r"no tensorrt plugin for version 10\.16\.1 is built; run `river-trt plugin build"
    with pytest.raises(RiverError, match=message):
        river_trt.load(directory())


def test_an_error_of_a_step_is_tensorrts_own(load):
    engine, _, trt_engine, _ = load()
    trt_engine.failure = "illegal memory access"
    with pytest.raises(EngineError, match="TensorRT refused the step: illegal memory access"):
        engine.generate([[3]], TEXT)
    trt_engine.failure = ""
    engine.generate([[3]], TEXT)


def test_a_capture_that_fails_leaves_the_stream_usable(load):
    engine, cuda, trt_engine, _ = load()
    stream = engine.stream([[2, 3]], TEXT)
    next(stream), next(stream)  # prefill, and the decode step that warms up
    trt_engine.failure = "operation not permitted when stream is capturing"
    with pytest.raises(EngineError, match="not permitted when stream is capturing"):
        next(stream)
    trt_engine.failure = ""
    assert cuda.captured is None
    assert engine.generate([[2, 3]], TEXT)[0].token_ids == list(range(4, 12))


def test_a_cuda_error_names_what_was_done(load, monkeypatch):
    engine, *_ = load()
    monkeypatch.setattr(FakeCuda, "cudaStreamSynchronize", lambda self, stream: (700,))
    with pytest.raises(EngineError, match="CUDA error 700 while running the engine: a reason"):
        engine.generate([[3]], TEXT)


def test_layers_of_the_engine_or_of_its_network(directory, install, capsys):
    """The inspector where the GPU is; the record of the build, and why, where it is not."""
    cuda = FakeCuda()
    engine = FakeEngine(cuda)
    install(cuda, fake_trt(engine))
    path = directory()
    assert main(["inspect", str(path), "--network"]) == 2
    assert "is no engine of TensorRT" in capsys.readouterr().err
    layers = (NetworkLayer("layers.0.gate", "RiverGate", "INT32", 0),)
    record = LayerRecord("TensorRT", "plugin", "9.0", {"RiverGate": 1}, 1, 0, 0, 0, (), {}, layers)
    (path / RECORD_FILE).write_text(record.to_json())
    assert LayerRecord.from_json(record.to_json()) == record
    assert main(["inspect", str(path), "--network"]) == 0
    out = capsys.readouterr().out
    assert "layers of the engine" in out and "fused kernel" in out and "1 RiverGate" in out
    cuda.capability = (8, 0)
    assert main(["inspect", str(path), "--network"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "layers of the network when it was built (the engine is for compute" in out
    assert "layers.0.gate" in out
    (path / RECORD_FILE).write_text("{}")
    assert main(["inspect", str(path)]) == 2
    assert "layers.json cannot be read" in capsys.readouterr().err


def test_memory_is_given_back_with_the_session(load):
    engine, cuda, *_ = load()
    engine.generate([[3]], TEXT)
    assert "cudaFree" not in cuda.calls
    del engine
    gc.collect()
    calls = cuda.count()
    assert calls["cudaFree"] == calls["cudaMalloc"] > 0
    assert calls["cudaFreeHost"] == calls["cudaHostAlloc"] > 0
