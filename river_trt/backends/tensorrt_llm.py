"""TensorRT-LLM: its executor owns the decoding loop; prompts go in whole, tokens come out.

Not run against TensorRT-LLM by this project's tests: a double of the bindings stands in for it.
"""

import time
import weakref
from collections.abc import Generator, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from river_trt.backends.base import SessionOptions
from river_trt.config import GenerationConfig
from river_trt.engine_dir import read_engine_dir
from river_trt.engine_files import MANIFEST_FILE
from river_trt.errors import EngineError, MissingDependencyError, PromptError, RiverError
from river_trt.json_text import parse_json
from river_trt.manifest import REBUILD, Manifest
from river_trt.one_caller import OneCaller
from river_trt.plugin.build import built_library
from river_trt.results import TokenEvent
from river_trt.row import Row

CONFIG_FILE = "config.json"
CHECKPOINT = "checkpoint"  # BackendInfo.target of what is converted but not built yet
# Fields that need the logits.
LOGITS_FIELDS = (
    *("presence_penalty", "frequency_penalty", "logit_bias", "json_schema"),
    *("logprobs", "prompt_logprobs"),
)
EXIT_LAYER = "exit_layer"  # the network's additional output
# The last minor version whose releases have the TensorRT engine path, and the release to install.
SUPPORTED, SUPPORTED_VERSION = "1.2", "1.2.1"
INSTALL = (
    f'pip install "tensorrt-llm=={SUPPORTED_VERSION}" --extra-index-url https://pypi.nvidia.com'
)


def require_tensorrt_llm() -> str:
    """The installed version; MissingDependencyError unless it is a supported one."""
    needs = f"the backend tensorrt-llm needs tensorrt_llm {SUPPORTED}.x"
    try:
        installed = version("tensorrt_llm")
    except PackageNotFoundError as error:
        raise MissingDependencyError(f"{needs}, which is not installed: {INSTALL}") from error
    if installed.split(".")[:2] != SUPPORTED.split("."):
        raise MissingDependencyError(f"{needs}, but {installed} is installed: {INSTALL}")
    return installed


def is_checkpoint(directory: Path) -> bool:
    """Whether `river-trt convert --format tensorrt-llm` wrote this directory."""
    if not (directory / MANIFEST_FILE).is_file():
        return False
    backend = read_engine_dir(directory, verify=False).backend
    return (backend.name, backend.target) == ("tensorrt-llm", CHECKPOINT)


def load_plugin() -> None:
    """Register RiverLinear and RiverGate with TensorRT, for a build or before an engine opens.

    Raises EngineError where TensorRT refuses the library, RiverError where none was built.
    """
    import tensorrt as trt  # tensorrt_llm brings it

    registry = trt.get_plugin_registry()
    if registry.get_creator("RiverLinear", "1", "river_trt") is None:
        library = built_library("tensorrt", trt.__version__)
        if registry.load_library(str(library)) is None:
            raise EngineError(f"TensorRT cannot load the plugin library {library}")


def gpu_compute_capability() -> str:
    """Of this machine's GPU, as 9.0."""
    from tensorrt_llm._utils import get_sm_version

    return "{}.{}".format(*divmod(get_sm_version(), 10))


def open_session(directory: Path, manifest: Manifest, options: SessionOptions) -> "ExecutorLoop":
    """Open rank{r}.engine with the executor.

    An engine of several ranks is opened by each process of an MPI run; only the first one returns,
    the others serve it and end with it. Raises EngineError for a checkpoint, or an engine of
    another version; MissingDependencyError without tensorrt_llm.
    """
    if manifest.backend.target == CHECKPOINT:
        raise EngineError(
            f"{directory} is a TensorRT-LLM checkpoint, not an engine yet; build it with "
            f"`river-trt build --backend tensorrt-llm --model {directory} --out ENGINE`"
        )
    if options.threads is not None:
        raise RiverError("threads is an option of engines that run on a CPU")
    installed = require_tensorrt_llm()
    if installed != manifest.backend.version:
        raise EngineError(
            f"the engine was built with tensorrt_llm {manifest.backend.version} but {installed} "
            f"is installed; {REBUILD}"
        )
    if (gpu := gpu_compute_capability()) != manifest.backend.compute_capability:
        raise EngineError(
            f"the engine was built for compute capability {manifest.backend.compute_capability}, "
            f"but this GPU has {gpu}; {REBUILD}"
        )
    load_plugin()
    from tensorrt_llm.bindings import executor as bindings

    if options.gpu and manifest.backend.target != "tp1":
        raise RiverError("an engine of several ranks chooses its GPUs itself: leave device out")

    config = bindings.ExecutorConfig(
        max_beam_width=1,
        max_batch_size=options.max_batch_size,
        enable_chunked_context=True,  # a prompt may be longer than max_num_tokens
        # Blocks that hold generated tokens would be reused for prompts: the river wrote them.
        kv_cache_config=bindings.KvCacheConfig(
            enable_block_reuse=False, max_attention_window=_windows(directory)
        ),
        additional_model_outputs=[bindings.AdditionalModelOutput(name=EXIT_LAYER)],
        parallel_config=bindings.ParallelConfig(device_ids=[options.gpu]) if options.gpu else None,
    )
    executor = bindings.Executor(
        model_path=directory, model_type=bindings.ModelType.DECODER_ONLY, executor_config=config
    )
    if not executor.can_enqueue_requests():
        executor.shutdown()  # returns when the first rank shuts down
        raise SystemExit(0)
    return ExecutorLoop(executor, bindings)


class ExecutorLoop:
    """A DecodingLoop over TensorRT-LLM's executor, with its scheduler and paged KV cache."""

    def __init__(self, executor: Any, bindings: Any) -> None:
        self._executor = executor
        self._bindings = bindings
        self._caller = OneCaller()  # responses come to whoever asks first
        # At the latest when Python ends: the other ranks wait for it.
        weakref.finalize(self, executor.shutdown)

    def check(self, config: GenerationConfig) -> None:
        """RiverError for what is fixed in the engine."""
        if any(value is not None for value in (config.policy, config.tau, config.pinned)):
            raise RiverError(
                "policy, tau and pinned are constants of a TensorRT-LLM engine; "
                "convert and build it again with --tau, --pinned or --policy"
            )
        for name, value, fixed in (
            ("mode", config.mode, "river"),
            ("prefill", config.prefill, "off"),
            ("gate_scope", config.gate_scope, "token"),
        ):
            if value != fixed:
                raise RiverError(f"{name} is always {fixed!r} with TensorRT-LLM, got {value!r}")
        for name in LOGITS_FIELDS:
            if getattr(config, name) not in (None, 0.0, ()):
                raise RiverError(
                    f"{name} is not offered with TensorRT-LLM, whose loop keeps the logits"
                )

    def run(self, rows: list[Row]) -> Generator[TokenEvent, None, None]:
        """All rows together, to the end of each; closing the iterator cancels what is left."""
        with self._caller:
            requests = [self._request(row) for row in rows]
            started = time.perf_counter()
            ids = self._executor.enqueue_requests(requests)
            pending = dict(zip(ids, rows, strict=True))
            try:
                while pending:
                    for response in self._executor.await_responses():
                        row = pending.get(response.request_id)
                        if row is None:  # it ended, and one more token was on its way
                            continue
                        yield from self._accept(row, response, started)
                        if row.finish_reason is not None:
                            del pending[response.request_id]
                            if not response.result.is_final:
                                self._executor.cancel_request(response.request_id)
            finally:
                for request_id in pending:
                    self._executor.cancel_request(request_id)

    def _accept(self, row: Row, response: Any, started: float) -> Iterator[TokenEvent]:
        if response.has_error():
            raise EngineError(f"TensorRT-LLM refuses a request: {response.error_msg}")
        result = response.result
        outputs = {output.name: output.output for output in result.additional_outputs}
        exit_layers = outputs[f"generation_{EXIT_LAYER}"]  # [beams, max_tokens, 1]
        for token in result.output_token_ids[0]:
            number = len(row.token_ids)
            row.past_length = len(row.prompt) + number
            seconds = time.perf_counter() - started
            if number == 0:
                row.prefill_seconds = seconds
            else:
                row.decode_seconds = seconds - row.prefill_seconds
            is_last = number + 1 == _max_tokens(row)
            text = row.push(int(token), int(exit_layers[0, number, 0]), is_last)
            yield row.event(number, text)
            if row.finish_reason is not None:
                return
        if result.is_final:
            raise EngineError(
                f"TensorRT-LLM ended a request after {len(row.token_ids)} tokens, without a reason "
                "that this river-trt knows"
            )

    def _request(self, row: Row) -> Any:
        bindings, config = self._bindings, row.config
        if _max_tokens(row) < 1:
            raise PromptError(
                f"the prompt fills all {row.cache_length} slots of the cache, "
                "and TensorRT-LLM needs one for the first token; shorten it"
            )
        stop_ids = {*config.stop_token_ids} | (set() if config.ignore_eos else row.eos_token_ids)
        return bindings.Request(
            input_token_ids=row.prompt.tolist(),
            max_tokens=_max_tokens(row),
            streaming=True,
            sampling_config=bindings.SamplingConfig(beam_width=1, **_sampling(row)),
            output_config=bindings.OutputConfig(
                exclude_input_from_output=True,
                additional_model_outputs=[bindings.AdditionalModelOutput(name=EXIT_LAYER)],
            ),
            # Not end_id, which takes one token only and leaves it out of the output.
            stop_words=[[token] for token in sorted(stop_ids)] or None,
        )


def _max_tokens(row: Row) -> int:
    return min(row.config.max_new_tokens, row.cache_length - len(row.prompt))


def _sampling(row: Row) -> dict[str, Any]:
    """SamplingConfig's arguments; its draws are not those of river-trt's own sampler."""
    sampling = row.sampling
    values: dict[str, Any] = {"seed": int(row.generator.integers(1 << 62))}
    if sampling.repetition_penalty != 1.0:
        values["repetition_penalty"] = sampling.repetition_penalty
    if sampling.is_greedy:
        return values | {"top_k": 1}
    values |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.top_k:
        values["top_k"] = sampling.top_k
    if sampling.min_p:
        values["min_p"] = sampling.min_p
    return values


def _windows(directory: Path) -> list[int] | None:
    """Attention windows of the layers, from the engine's config.json."""
    try:
        document = parse_json((directory / CONFIG_FILE).read_text(encoding="utf-8"))
        defaults = document["pretrained_config"].get("runtime_defaults") or {}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise EngineError(f"{CONFIG_FILE} is not a TensorRT-LLM engine's; {REBUILD}") from error
    windows: list[int] | None = defaults.get("max_attention_window")
    return windows
