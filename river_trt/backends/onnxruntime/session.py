"""ONNX Runtime on the CPU: one session, every buffer bound once and written in place."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort

from river_trt.backends.base import SessionOptions, Span, Step, StepOutput
from river_trt.backends.onnxruntime.cache_slots import slot_width, widen_slots
from river_trt.backends.onnxruntime.location import with_weights
from river_trt.backends.onnxruntime.rules import MOST_BYTES, check_graph, places_in_use
from river_trt.backends.onnxruntime.tracing import StepSizes, kernel_spans, runtime_spans
from river_trt.backends.policy_buffers import PolicyBuffers
from river_trt.cores import usable_cores
from river_trt.errors import EngineError, MissingDependencyError, RiverError
from river_trt.manifest import REBUILD, Manifest
from river_trt.native_library import ABI_VERSION, BLOCKS, native_library
from river_trt.origin import this_build
from river_trt.plain_file import read_plain
from river_trt.private_memory import forget
from river_trt.spec import POLICY_INPUTS, STEP_INPUTS, GateScope, ModelShape, cache_names

WEIGHTS_FILE = "model.data"
# Threads that wait for work keep their cores for so long: from one layer to the next, no longer.
# Other programs want them too, and so does the thread of ours that works.
SPIN_ENTRY, SPIN_US = "session.intra_op.spin_duration_us", 1000
# Token ids [seq] to h_0 .. h_last, [last + 1, seq, hidden].
HiddenStates = Callable[[np.ndarray], np.ndarray]


def open_session(directory: Path, manifest: Manifest, options: SessionOptions) -> "OrtSession":
    """Open model.onnx; its weights are mapped where no operator has copied them.

    Raises EngineError for an onnxruntime older than the engine, a file it cannot load, a graph
    that breaks a rule (rules.py) or has other inputs and outputs than the spec's; RiverError
    when the cache does not fit memory.
    """
    check_version(manifest.backend.version, ort.__version__)
    caches = tuple(BLOCKS) if manifest.backend.kernels == "native" else ("float32",)
    for name, found, known in (
        ("backend.target", manifest.backend.target, ("cpu",)),
        ("precision.kv_cache", manifest.precision.kv_cache, caches),
    ):
        if found not in known:
            raise EngineError(
                f"manifest.json: {name} is {found!r}, and this river-trt runs only "
                f"{' or '.join(map(repr, known))} "
                f"with onnxruntime; upgrade with {this_build().upgrade()}"
            )
    if manifest.backend.kernels == "native":
        check_abi(manifest.backend.kernels_abi)
    file, weights = directory / manifest.engine_file, directory / WEIGHTS_FILE
    try:
        model = read_plain(file, MOST_BYTES)
    except OSError as error:
        raise EngineError(f"{file.name} cannot be read: {error.strerror}; {REBUILD}") from error
    graph = check_graph(model, manifest.files)

    def open_graph(settings: ort.SessionOptions) -> ort.InferenceSession:
        try:
            source = with_weights(model, weights, settings)
            return ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's error classes share no other base
            reason = str(error).splitlines()[0]
            raise EngineError(f"onnxruntime cannot load {file}: {reason}; {REBUILD}") from error

    def open_profiled(prefix: Path) -> ort.InferenceSession:
        profiled = session_settings(manifest, options)
        profiled.enable_profiling, profiled.profile_file_prefix = True, str(prefix)
        return open_graph(profiled)

    session = open_graph(session_settings(manifest, options))
    if WEIGHTS_FILE in manifest.files:
        status = weights.stat()
        forget((status.st_dev, status.st_ino), places_in_use(graph, WEIGHTS_FILE))
    # GroupQueryAttention takes several tokens over a filled cache for one row at a time.
    row_by_row = manifest.backend.kernels != "native"
    return OrtSession(
        session,
        manifest.model.shape,
        options,
        manifest.precision.kv_cache,
        row_by_row,
        lambda last: _open_hidden_states(file, manifest, options, last),
        open_profiled,
    )


def session_settings(manifest: Manifest, options: SessionOptions) -> ort.SessionOptions:
    """Of whatever runs the engine's operators.

    Raises RiverError where the native kernels cannot be compiled, or where none have the name in
    $RIVER_TRT_CPU_KERNELS.
    """
    settings = ort.SessionOptions()
    settings.log_severity_level = 3  # errors only
    # ONNX Runtime's default knows no quota and binds threads to cores that others may hold.
    settings.intra_op_num_threads = options.threads or usable_cores()
    if manifest.backend.kernels == "native":
        settings.add_session_config_entry(SPIN_ENTRY, str(SPIN_US))
        library = native_library(options.progress)
        try:
            settings.register_custom_ops_library(str(library))
        except Exception as error:  # as in open_graph; its reason comes last
            raise RiverError(str(error).split(" : ")[-1]) from error
    return settings


def _open_hidden_states(
    model: Path, manifest: Manifest, options: SessionOptions, last: int
) -> HiddenStates:
    try:
        from river_trt.backends.onnxruntime.hidden_states import GraphHiddenStates
    except ImportError as error:
        raise MissingDependencyError(
            "an engine's hidden states need onnx, which is not installed: "
            f"{this_build().install('build')}"
        ) from error
    settings = session_settings(manifest, options)
    return GraphHiddenStates(
        model,
        model.with_name(WEIGHTS_FILE),
        manifest.model.shape,
        settings,
        manifest.precision.kv_cache,
        last,
    )


def check_version(built_for: str, installed: str) -> None:
    """EngineError for an onnxruntime older than the engine's: it may not know the operators."""
    if _major_minor(installed) < _major_minor(built_for):
        raise EngineError(
            f"the engine was built for onnxruntime {built_for} but {installed} is installed; "
            f"upgrade with `pip install -U 'onnxruntime>={built_for}'`"
        )


def check_abi(built_for: int | None) -> None:
    """EngineError for kernels of another version: operators and weight layout are one's own."""
    if built_for != ABI_VERSION:
        raise EngineError(
            f"the engine was built for version {built_for} of the native kernels but this "
            f"river-trt has version {ABI_VERSION}; {REBUILD}"
        )


def _major_minor(version: str) -> tuple[int, int]:
    try:
        major, minor = version.split(".")[:2]
        return int(major), int(minor)
    except ValueError as error:
        raise EngineError(f"{version!r} is no onnxruntime version; {REBUILD}") from error


class OrtSession:
    """The Session of a model.onnx, and its cache: [rows, num_kv_heads, T, slot_width] each.

    Raises RiverError where the cache does not fit memory, EngineError where ONNX Runtime fails.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        shape: ModelShape,
        options: SessionOptions,
        kv_cache: str,
        row_by_row: bool,
        open_hidden_states: Callable[[int], HiddenStates],
        open_profiled: Callable[[Path], ort.InferenceSession],
    ) -> None:
        """kv_cache: element type of the cache, float32, float16 or int8 (cache_slots.py).

        row_by_row: rows take their steps of several tokens over a filled cache one by one.

        open_hidden_states (of h_0 .. h_last), open_profiled: called where they are asked for,
        because they open the graph again; the latter with a profile, in a file whose name begins
        so.
        """
        self._session = session
        self._row_by_row = row_by_row
        self._open_hidden_states = open_hidden_states
        self._open_profiled = open_profiled
        self._traced: list[StepSizes] | None = None  # of the steps since a trace began
        self._hidden_states: tuple[int, HiddenStates] | None = None
        self._vocab_size = shape.vocab_size
        self._cache_length = options.cache_length
        self._cache_inputs = cache_names(shape.num_layers)
        self._cache_outputs = cache_names(shape.num_layers, "_out")
        width = slot_width(kv_cache, shape.head_dim)
        self._check_signature(shape, width)
        cache_shape = (
            options.max_batch_size + options.spare_rows,
            shape.num_kv_heads,
            options.cache_length,
            width,
        )
        dtype = np.dtype(kv_cache)
        try:
            self.caches = [np.zeros(cache_shape, dtype) for _ in self._cache_inputs]
        except MemoryError as error:
            size = dtype.itemsize * len(self._cache_inputs) * int(np.prod(cache_shape))
            raise RiverError(
                f"the KV cache needs {size / 2**30:.1f} GiB, more than this machine has; "
                "lower max_seq_len or max_batch_size"
            ) from error
        self._policy = PolicyBuffers(shape.num_layers, shape.hidden_size)
        self._bindings: dict[tuple[int, int], _Binding] = {}

    def step(self, step: Step) -> StepOutput:
        first_row, rows = step.first_row, step.rows
        assert first_row + rows <= len(self.caches[0]) and step.slots <= self._cache_length
        if self._row_by_row and rows > 1 and step.seq > 1 and step.past_lengths.any():
            return self._step_row_by_row(step)
        binding = self._bindings.get((first_row, rows))
        if binding is None:
            binding = self._bindings[first_row, rows] = self._bind(first_row, rows)
        binding.resize(step.seq, step.num_logits, self._vocab_size)
        self._policy.write(step.policy, step.gate_scope)
        for name, values in step.inputs.items():
            binding.arrays[name][...] = values
        if self._traced is not None:
            self._traced.append((rows, step.seq, int(step.past_lengths.max())))
        try:
            self._session.run_with_iobinding(binding.io)
        except Exception as error:  # the library's error classes share no other base
            reason = str(error).splitlines()[0]
            raise EngineError(f"onnxruntime cannot run the engine: {reason}; {REBUILD}") from error
        return StepOutput(binding.arrays["logits"], binding.arrays["exit_layer"])

    def _step_row_by_row(self, step: Step) -> StepOutput:
        if step.gate_scope is GateScope.BATCH:
            raise RiverError(
                "gate_scope 'batch' cannot decide for several tokens over a filled cache: "
                "onnxruntime's own kernels take them row by row; use 'token'"
            )
        logits = np.empty((step.rows, step.num_logits, self._vocab_size), np.float32)
        exit_layer = np.empty((step.rows, step.seq), np.int32)
        for row in range(step.rows):
            out = self.step(step.row(row))
            logits[row], exit_layer[row] = out.logits[0], out.exit_layer[0]
        return StepOutput(logits, exit_layer)

    def move_row(self, source: int, target: int, length: int) -> None:
        for cache in self.caches:
            cache[target, :, :length] = cache[source, :, :length]

    def read_row(self, row: int, length: int) -> np.ndarray:
        slots = np.stack([cache[row, :, :length] for cache in self.caches])
        return widen_slots(slots.reshape(-1, 2, *slots.shape[1:]))

    def hidden_states(self, token_ids: np.ndarray, last: int) -> np.ndarray:
        if self._hidden_states is None or self._hidden_states[0] != last:
            self._hidden_states = None  # before the next takes its memory
            self._hidden_states = last, self._open_hidden_states(last)
        return self._hidden_states[1](token_ids)

    def trace(self, run: Callable[[], object]) -> list[Span]:
        session, bindings = self._session, self._bindings
        self._traced = []
        with tempfile.TemporaryDirectory() as folder:
            self._session, self._bindings = self._open_profiled(Path(folder) / "profile"), {}
            try:
                run()  # warm
                first = len(self._traced)
                # GroupQueryAttention's engines have no phases of ours.
                spans = [] if self._row_by_row else kernel_spans(native_library(), run)
                if self._row_by_row:
                    run()
                file = Path(self._session.end_profiling())
                began = self._session.get_profiling_start_time_ns()
                return [*runtime_spans(file, began, self._traced, first), *spans]
            finally:
                self._session, self._bindings, self._traced = session, bindings, None

    def _bind(self, first_row: int, rows: int) -> "_Binding":
        binding = _Binding(self._session, rows)
        names = zip(self._cache_inputs, self._cache_outputs, self.caches, strict=True)
        for name_in, name_out, cache in names:
            view = ort.OrtValue.ortvalue_from_numpy(cache[first_row : first_row + rows])
            binding.io.bind_ortvalue_input(name_in, view)
            binding.io.bind_ortvalue_output(name_out, view)
        for name, array in self._policy.arrays.items():
            binding.bind_input(name, array)
        binding.bind_input("past_lengths", np.zeros(rows, np.int32))
        return binding

    def _check_signature(self, shape: ModelShape, width: int) -> None:
        expected_in = {*STEP_INPUTS, *POLICY_INPUTS, *self._cache_inputs}
        expected_out = {"logits", "exit_layer", *self._cache_outputs}
        found_in, found_out = self._session.get_inputs(), self._session.get_outputs()
        for kind, found, expected in (
            ("input", {i.name for i in found_in}, expected_in),
            ("output", {o.name for o in found_out}, expected_out),
        ):
            wrong = sorted(found ^ expected)
            if wrong:
                raise EngineError(
                    f"the engine's graph is not a river engine's: {kind} {wrong[0]} is "
                    f"{'missing' if wrong[0] in expected else 'unknown'}; {REBUILD}"
                )
        sizes = _known_sizes(shape)
        for tensor in (*found_in, *found_out):
            wanted = sizes.get(tensor.name, (None, shape.num_kv_heads, None, width))
            same = len(tensor.shape) == len(wanted) and all(
                size in (None, found) for size, found in zip(wanted, tensor.shape, strict=True)
            )
            if not same:
                raise EngineError(
                    f"the engine's graph has {tensor.name} of shape {tensor.shape}, but the "
                    f"manifest's model needs {[size or 'any' for size in wanted]}; {REBUILD}"
                )


def _known_sizes(shape: ModelShape) -> dict[str, tuple[int | None, ...]]:
    """Shapes of all but the caches (river_trt.spec); None where a step chooses."""
    layers = shape.num_layers
    return {
        "input_ids": (None, None),
        "past_lengths": (None,),
        "logit_indices": (None,),
        "tau": (layers,),
        "pinned": (layers,),
        "use_directions": (),
        "directions": (layers, shape.hidden_size),
        "gate_scope": (),
        "logits": (None, None, shape.vocab_size),
        "exit_layer": (None, None),
    }


class _Binding:
    """The bound buffers of a range of cache rows; an array is written in place for each step."""

    def __init__(self, session: ort.InferenceSession, rows: int) -> None:
        self.io = session.io_binding()
        self.rows = rows
        self.arrays: dict[str, np.ndarray] = {}
        self._sizes = (0, 0)  # seq, num_logits

    def resize(self, seq: int, num_logits: int, vocab_size: int) -> None:
        """New buffers for a step of another shape than the last one's."""
        if (seq, num_logits) == self._sizes:
            return
        self._sizes = (seq, num_logits)
        self.bind_input("input_ids", np.zeros((self.rows, seq), np.int64))
        self.bind_input("logit_indices", np.zeros(num_logits, np.int64))
        self.bind_output("logits", np.empty((self.rows, num_logits, vocab_size), np.float32))
        self.bind_output("exit_layer", np.empty((self.rows, seq), np.int32))

    def bind_input(self, name: str, array: np.ndarray) -> None:
        self.arrays[name] = array
        self.io.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))

    def bind_output(self, name: str, array: np.ndarray) -> None:
        self.arrays[name] = array
        self.io.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
