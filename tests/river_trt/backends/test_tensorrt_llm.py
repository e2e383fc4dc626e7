"""The runtime adapter over a double of TensorRT-LLM's executor: what goes in, what comes out."""

import dataclasses
import gc
import json

import numpy as np
import pytest

import river_trt
from river_trt import GenerationConfig
from river_trt.backends import tensorrt_llm
from river_trt.engine_dir import hash_files, write_manifest
from river_trt.errors import EngineError, PromptError, RiverError
from river_trt.manifest import (
    BackendInfo,
    ByteCounts,
    FileInfo,
    Manifest,
    ModelInfo,
    PolicyInfo,
    PrecisionInfo,
    RiverInfo,
)
from river_trt.spec import ExitPolicy, ModelShape

pytest.importorskip("tensorrt_rtx")  # the double stands on it
from tests.builders.tensorrt_llm.double import executor
from tests.builders.tensorrt_llm.double.install import installed

EOS = 48


def write_engine(directory, **changes) -> None:
    shape = ModelShape(4, 64, 4, 2, 16, 50, 32)
    manifest = Manifest(
        river_trt_version="0.1.0",
        created="2026-01-01T00:00:00+00:00",
        model=ModelInfo("tiny", "llama", "0" * 64, shape, (EOS,), None, False, 1),
        backend=BackendInfo(**({"name": "tensorrt-llm", "version": "1.2.1", "target": "tp1",
                                "compute_capability": "9.0"} | changes)),
        precision=PrecisionInfo("float16", 16, "float16", "float16"),
        river=RiverInfo("rtn", 4, 32, False, None),
        policy=PolicyInfo.from_policy(ExitPolicy.uniform(4, 0.9)),
        bytes_per_layer=ByteCounts(4, 1, 1, 1),
        engine_file="rank0.engine",
        files={"rank0.engine": FileInfo(0, "")},
    )  # fmt: skip
    directory.mkdir()
    (directory / "rank0.engine").write_bytes(b"an engine")
    defaults = {"max_attention_window": [6, 32, 6, 32]}
    config = {"pretrained_config": {"runtime_defaults": defaults}}
    (directory / "config.json").write_text(json.dumps(config))
    write_manifest(directory, dataclasses.replace(manifest, files=hash_files(directory)))


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`river_trt.load` of an engine whose executor is the double."""
    monkeypatch.setenv("RIVER_TRT_PLUGIN", __file__)
    monkeypatch.setattr(tensorrt_llm, "version", lambda name: "1.2.1")

    def open_engine(changes=None, **options):
        write_engine(tmp_path / "engine", **(changes or {}))
        return river_trt.load(tmp_path / "engine", **options)

    with installed() as tensorrt:
        open_engine.tensorrt = tensorrt
        yield open_engine


def expected(prompt, count):
    """What the double generates."""
    tokens = []
    for _ in range(count):
        tokens.append((sum(prompt) + sum(tokens)) % 50)
    return tokens


def test_several_prompts_together(load):
    engine = load()
    prompts = [[1, 2], [3], [4, 5, 6]]
    results = engine.generate(prompts, GenerationConfig(max_new_tokens=3))
    for prompt, result in zip(prompts, results, strict=True):
        assert result.token_ids == expected(prompt, 3)
        assert result.exit_layers.tolist() == [2, 1, 2]
        assert result.backbone_layers.tolist() == [2, 1, 2]
        assert (result.finish_reason, result.prompt_tokens) == ("length", len(prompt))
        assert result.prefill_seconds > 0 and result.decode_seconds >= 0
    requests = executor.OPENED[-1]
    assert requests.cancelled == []


def test_an_end_token_ends_a_row_and_is_in_its_tokens(load):
    engine = load()
    prompt = next([n] for n in range(50) if EOS in expected([n], 8)[1:7])
    result = engine.generate(prompt, GenerationConfig(max_new_tokens=20))[0]
    assert result.token_ids[-1] == EOS and result.finish_reason == "eos"
    config = GenerationConfig(max_new_tokens=20, ignore_eos=True)
    assert len(engine.generate(prompt, config)[0].token_ids) == 20


def test_a_stop_token_ends_a_row(load):
    tokens = expected([7], 5)
    config = GenerationConfig(max_new_tokens=9, stop_token_ids=(tokens[2],), ignore_eos=True)
    result = load().generate([7], config)[0]
    assert result.token_ids == tokens[: tokens.index(tokens[2]) + 1]
    assert result.finish_reason == "stop"


def test_what_the_executor_is_asked_for(load):
    engine = load(max_batch_size=3)
    opened = executor.OPENED[-1]
    assert opened.config.max_batch_size == 3 and opened.config.max_beam_width == 1
    assert opened.config.enable_chunked_context  # a prompt may be longer than a step
    cache = opened.config.kv_cache_config
    assert not cache.enable_block_reuse and cache.max_attention_window == [6, 32, 6, 32]
    assert [output.name for output in opened.config.additional_model_outputs] == ["exit_layer"]
    assert not opened.config.additional_model_outputs[0].gather_context
    assert load.tensorrt.get_plugin_registry().libraries == [__file__]
    stream = engine.stream([1, 2], GenerationConfig(max_new_tokens=5))
    next(stream)
    (request,) = opened.requests.values()
    assert request.streaming and request.output_config.exclude_input_from_output
    assert request.sampling_config.top_k == 1 and request.stop_words == [[EOS]]
    stream.close()
    assert len(opened.cancelled) == 1 and not opened.requests


def test_sampling_options(load):
    engine = load()
    config = GenerationConfig(
        max_new_tokens=2, temperature=0.7, top_k=5, top_p=0.9, min_p=0.1,
        repetition_penalty=1.1, seed=1,
    )  # fmt: skip
    seeds = []
    for _ in range(2):
        stream = engine.stream([1], config)
        next(stream)
        sampling = next(iter(executor.OPENED[-1].requests.values())).sampling_config
        seeds.append(sampling.seed)
        assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.7, 5, 0.9)
        assert (sampling.min_p, sampling.repetition_penalty) == (0.1, 1.1)
        stream.close()
    assert seeds[0] == seeds[1], "a seed makes sampling repeatable"


def test_the_cache_limits_a_row(load):
    engine = load(max_seq_len=8)
    result = engine.generate([1] * 5, GenerationConfig(max_new_tokens=50, ignore_eos=True))[0]
    assert len(result.token_ids) == 3 and result.finish_reason == "length"
    with pytest.raises(PromptError, match="fills all 8 slots"):
        engine.generate([1] * 8)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"tau": 0.5}, "tau and pinned are constants of a TensorRT-LLM engine"),
        ({"pinned": (1,)}, "tau and pinned are constants"),
        ({"prefill": "sequence"}, "prefill is always 'off' with TensorRT-LLM"),
        ({"mode": "lossless"}, "mode is always 'river' with TensorRT-LLM, got 'lossless'"),
        ({"gate_scope": "batch"}, "gate_scope is always 'token' with TensorRT-LLM"),
    ],
)
def test_what_is_fixed_in_the_engine_is_refused(load, config, message):
    with pytest.raises(RiverError, match=message):
        load().generate([1], GenerationConfig(**config))


def test_what_needs_steps_of_its_own_is_refused(load):
    engine = load()
    for call in (lambda: engine.forward(np.ones((1, 2), int)), lambda: engine.read_cache(0, 1),
                 lambda: engine.stepper.hidden_states(np.ones(2, int)), engine.serve):  # fmt: skip
        with pytest.raises(RiverError, match="tensorrt-llm runs its own decoding loop"):
            call()
    assert engine.generate([1], GenerationConfig(max_new_tokens=1))[0].token_ids == [1]


def test_an_error_of_the_executor(load):
    engine = load()
    executor.OPENED[-1].fails[2] = "no memory"
    stream = engine.stream([1])
    next(stream)
    with pytest.raises(EngineError, match="TensorRT-LLM refuses a request: no memory"):
        next(stream)


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"version": "1.2.0"}, {}, "built with tensorrt_llm 1.2.0 but 1.2.1 is installed"),
        ({"compute_capability": "8.0"}, {}, "compute capability 8.0, but this GPU has 9.0"),
        ({"target": "checkpoint"}, {}, "is a TensorRT-LLM checkpoint, not an engine yet"),
        ({}, {"threads": 2}, "threads is an option of engines that run on a CPU"),
        ({}, {"batch_invariant": True}, "batch_invariant is not offered by tensorrt-llm"),
    ],
)
def test_an_engine_that_does_not_fit_is_one_sentence(load, changes, options, message):
    with pytest.raises(RiverError, match=message):
        load(changes, **options)


def test_the_executor_ends_with_the_engine(load):
    engine = load()
    assert not executor.OPENED[-1].is_shut_down
    del engine
    gc.collect()
    assert executor.OPENED[-1].is_shut_down


def test_other_ranks_serve_the_first_and_end(load, monkeypatch):
    monkeypatch.setattr(executor.Executor, "can_enqueue_requests", lambda self: False)
    with pytest.raises(SystemExit) as ended:
        load()
    assert ended.value.code == 0
