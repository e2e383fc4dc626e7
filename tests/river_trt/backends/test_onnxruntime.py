"""The backend on a tiny graph that has the contract's tensors and simple arithmetic."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import river_trt
from river_trt.backends import open_session
from river_trt.backends.base import SessionOptions, Step
from river_trt.backends.onnxruntime import check_version
from river_trt.engine_dir import hash_files, write_manifest
from river_trt.errors import EngineError
from river_trt.manifest import BackendInfo, PolicyInfo, PrecisionInfo
from river_trt.spec import ExitPolicy, GateScope, cache_names

LAYERS, VOCAB, HEADS, SLOTS, DIM = 4, 260, 1, 16, 4  # as in conftest's manifest


def tiny_graph(deepest: int = 10**6) -> onnx.ModelProto:
    """logits[b,n,v] = id + v + min(tau_1, 50) + 10 pinned + 100 sum(directions) if used

    exit_layer[b,s] = min(id + past_length + 1000 gate_scope, deepest)
    k_cache_out = k_cache + 1, v_cache_out = v_cache + past_length
    """
    i64, i32, f32, boolean = (getattr(TensorProto, t) for t in ("INT64", "INT32", "FLOAT", "BOOL"))
    info = helper.make_tensor_value_info
    cache_shape = ["batch", HEADS, "slots", DIM]
    inputs = [
        info("input_ids", i64, ["batch", "seq"]),
        info("past_lengths", i32, ["batch"]),
        info("logit_indices", i64, ["num_logits"]),
        info("tau", f32, [LAYERS]),
        info("pinned", boolean, [LAYERS]),
        info("use_directions", boolean, []),
        info("directions", f32, [LAYERS, 8]),
        info("gate_scope", i32, []),
        *(info(name, f32, cache_shape) for name in cache_names(LAYERS)),
    ]
    outputs = [
        info("logits", f32, ["batch", "num_logits", VOCAB]),
        info("exit_layer", i32, ["batch", "seq"]),
        *(info(name, f32, cache_shape) for name in cache_names(LAYERS, "_out")),
    ]
    constants = {
        "vocab": np.arange(VOCAB, dtype=np.float32),
        "one": np.float32(1),
        "ten": np.float32(10),
        "fifty": np.float32(50),
        "hundred": np.float32(100),
        "thousand": np.int32(1000),
        "deepest": np.int32(deepest),
        "first": np.array([0]),
        "axis_1": np.array([1]),
        "axis_2": np.array([2]),
        "to_cache": np.array([1, 2, 3]),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["input_ids", "logit_indices"], ["wanted"], axis=1),
        node("Cast", ["wanted"], ["wanted_f"], to=f32),
        node("Unsqueeze", ["wanted_f", "axis_2"], ["wanted_3"]),
        node("Add", ["wanted_3", "vocab"], ["sum_0"]),
        node("Gather", ["tau", "first"], ["tau_raw"]),
        node("Min", ["tau_raw", "fifty"], ["tau_1"]),  # inf at full depth
        node("Add", ["sum_0", "tau_1"], ["sum_1"]),
        node("Cast", ["pinned"], ["pinned_f"], to=f32),
        node("ReduceSum", ["pinned_f"], ["pinned_n"], keepdims=0),
        node("Mul", ["pinned_n", "ten"], ["pinned_10"]),
        node("Add", ["sum_1", "pinned_10"], ["sum_2"]),
        node("Cast", ["use_directions"], ["use_f"], to=f32),
        node("ReduceSum", ["directions"], ["directions_n"], keepdims=0),
        node("Mul", ["directions_n", "use_f"], ["directions_used"]),
        node("Mul", ["directions_used", "hundred"], ["directions_100"]),
        node("Add", ["sum_2", "directions_100"], ["logits"]),
        node("Cast", ["input_ids"], ["ids_32"], to=i32),
        node("Unsqueeze", ["past_lengths", "axis_1"], ["past_2"]),
        node("Add", ["ids_32", "past_2"], ["ids_past"]),
        node("Mul", ["gate_scope", "thousand"], ["scope_1000"]),
        node("Add", ["ids_past", "scope_1000"], ["exit_sum"]),
        node("Min", ["exit_sum", "deepest"], ["exit_layer"]),
        node("Cast", ["past_lengths"], ["past_f"], to=f32),
        node("Unsqueeze", ["past_f", "to_cache"], ["past_4"]),
    ]
    for layer in range(LAYERS):
        nodes.append(node("Add", [f"k_cache.{layer}", "one"], [f"k_cache_out.{layer}"]))
        nodes.append(node("Add", [f"v_cache.{layer}", "past_4"], [f"v_cache_out.{layer}"]))
    initializers = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.fixture
def directory(engine_directory: Path, make_manifest) -> Path:
    write_graph(engine_directory, tiny_graph(), make_manifest)
    return engine_directory


def write_graph(directory, model, make_manifest, **changes):
    onnx.save(model, directory / "model.onnx")
    (directory / "manifest.json").unlink(missing_ok=True)
    manifest = make_manifest(files=hash_files(directory), **changes)
    write_manifest(directory, manifest)
    return manifest


@pytest.fixture
def session(directory):
    return river_trt.load(directory, max_batch_size=4, max_seq_len=SLOTS, threads=1).stepper.session


def policy(tau=0.5, pinned=0, directions=None):
    flags = np.zeros(LAYERS, np.bool_)
    flags[:pinned] = True
    return ExitPolicy(np.full(LAYERS, tau, np.float32), flags, directions)


def step(session, ids, first_row=0, past=None, indices=None, policy_=None, scope=GateScope.TOKEN):
    ids = np.asarray(ids, np.int64)
    past = np.zeros(len(ids), np.int32) if past is None else np.asarray(past, np.int32)
    indices = np.arange(ids.shape[1]) if indices is None else np.asarray(indices, np.int64)
    return session.step(Step(ids, first_row, past, indices, policy_ or policy(), scope))


def test_step_writes_the_bound_cache_rows_and_no_others(session):
    step(session, [[1], [2]], first_row=1, past=[3, 5])
    for layer in range(LAYERS):
        k, v = session.caches[2 * layer], session.caches[2 * layer + 1]
        assert k.shape == (4 + 1, HEADS, SLOTS, DIM)  # one spare
        assert [k[row].min() for row in range(4)] == [0, 1, 1, 0]
        assert [v[row].max() for row in range(4)] == [0, 3, 5, 0]


def test_cache_is_never_copied(session):
    before = [cache.ctypes.data for cache in session.caches]
    for _ in range(3):
        step(session, [[1], [2], [3]])
    step(session, [[1, 2, 3]], first_row=2)
    assert [cache.ctypes.data for cache in session.caches] == before
    assert [session.caches[0][row].max() for row in range(4)] == [3, 3, 4, 0]


def test_every_input_reaches_the_graph_and_changes_between_steps(session):
    directions = np.full((LAYERS, 8), 0.25, np.float32)
    out = step(
        session,
        [[7, 9]],
        past=[2],
        indices=[1, 0],
        policy_=policy(0.5, 2),
        scope=GateScope.SEQUENCE,
    )
    assert out.logits.shape == (1, 2, VOCAB)
    assert out.logits[0, :, 3].tolist() == [9 + 3 + 0.5 + 20, 7 + 3 + 0.5 + 20]
    assert out.exit_layer.tolist() == [[1009, 1011]]
    out = step(session, [[7, 9]], indices=[0, 0], policy_=policy(1.5, 0, directions))
    assert out.logits[0, :, 0].tolist() == [7 + 1.5 + 800, 7 + 1.5 + 800]
    assert out.exit_layer.tolist() == [[7, 9]]
    # Another array of directions, then none again.
    out = step(session, [[7, 9]], policy_=policy(1.5, 0, directions * 2))
    assert out.logits[0, 0, 0] == 7 + 1.5 + 1600
    assert step(session, [[7, 9]]).logits[0, 0, 0] == 7.5


def test_steps_of_other_shapes_share_a_row_range(session):
    for ids in ([[1, 2, 3]], [[4]], [[5, 6]], [[7]], [[1, 2, 3]]):
        out = step(session, ids)
        assert out.exit_layer.tolist() == ids
        assert out.logits[0, :, 0].tolist() == [i + 0.5 for i in ids[0]]


def test_bindings_are_made_once_per_row_range(session):
    for _ in range(3):
        step(session, [[1], [2]])
        step(session, [[1]], first_row=3)
    assert sorted(session._bindings) == [(0, 2), (3, 1)]


def test_moved_row_copies_its_used_slots_only(session):
    for number, cache in enumerate(session.caches):
        cache[3] = number + 1
    session.move_row(3, 1, 5)
    for number, cache in enumerate(session.caches):
        assert (cache[1, :, :5] == number + 1).all()
        assert not cache[1, :, 5:].any()


def test_a_row_is_read_layer_by_layer(session):
    for number, cache in enumerate(session.caches):
        cache[2] = number
    found = session.read_row(2, 3)
    assert found.shape == (LAYERS, 2, HEADS, 3, DIM)
    for layer in range(LAYERS):
        assert (found[layer, 0] == 2 * layer).all() and (found[layer, 1] == 2 * layer + 1).all()
    session.caches[0][2] = 9
    assert (found[0, 0] == 0).all(), "a copy"


def test_whole_engine_generates(directory, make_manifest):
    write_graph(directory, tiny_graph(LAYERS), make_manifest)
    engine = river_trt.load(directory, max_seq_len=SLOTS)
    config = river_trt.GenerationConfig(max_new_tokens=3, ignore_eos=True, tau=0.5)
    first, second = engine.generate([[1], [2, 3]], config)
    assert first.token_ids == second.token_ids == [VOCAB - 1] * 3  # logits grow with the id


def test_onnxruntime_older_than_the_engine_is_refused():
    check_version("1.20.3", "1.20.0")  # patches do not matter
    check_version("1.20.0", "1.21.0")
    check_version("1.20.0", "2.0.0+cpu")
    with pytest.raises(EngineError, match=r"built for onnxruntime 1\.20\.0 but 1\.9\.1"):
        check_version("1.20.0", "1.9.1")
    with pytest.raises(EngineError, match="no onnxruntime version"):
        check_version("new", "1.9.1")


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        (BackendInfo("abacus", "10.14", "h100"), "backend 'abacus'.*onnxruntime"),
        (BackendInfo("onnxruntime", "99.0.0", "cpu"), "built for onnxruntime 99"),
        (BackendInfo("onnxruntime", "1.20.0", "cuda"), "backend.target is 'cuda'"),
    ],
)
def test_engine_for_something_else_is_refused(directory, make_manifest, backend, message):
    write_graph(directory, tiny_graph(), make_manifest, backend=backend)
    with pytest.raises(EngineError, match=message):
        river_trt.load(directory)


def test_other_cache_precision_is_refused_not_replaced(directory, make_manifest):
    precision = PrecisionInfo("float32", 32, "float16", "int8")
    write_graph(directory, tiny_graph(), make_manifest, precision=precision)
    with pytest.raises(EngineError, match=r"precision\.kv_cache is 'float16'"):
        river_trt.load(directory)


def test_file_that_is_no_graph(engine_directory):
    with pytest.raises(EngineError, match=r"graph is none of ONNX .*river-trt build") as error:
        river_trt.load(engine_directory)
    assert "\n" not in str(error.value)


def test_graph_with_other_tensors_is_refused(directory, make_manifest):
    model = tiny_graph()
    model.graph.output.pop()
    model.graph.node.pop()
    write_graph(directory, model, make_manifest)
    with pytest.raises(EngineError, match=r"output v_cache_out\.3 is missing"):
        river_trt.load(directory)


def test_weights_outside_the_directory_are_refused(directory, make_manifest):
    """The graph names its data file itself: that path must not leave the directory either."""
    outside = directory.parent / "secret.bin"
    outside.write_bytes(bytes(4 * VOCAB))
    model = tiny_graph()
    tensor = next(t for t in model.graph.initializer if t.name == "vocab")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secret.bin"
    (directory / "model.onnx").write_bytes(model.SerializeToString())
    (directory / "manifest.json").unlink()
    write_manifest(directory, make_manifest(files=hash_files(directory)))
    with pytest.raises(EngineError, match=r"'\.\./secret\.bin', which the manifest does not list"):
        river_trt.load(directory)


def test_cache_larger_than_memory_is_one_sentence(directory, make_manifest, monkeypatch):
    def no_memory(*args, **kwargs):
        raise MemoryError

    manifest = make_manifest(files=hash_files(directory))
    monkeypatch.setattr("river_trt.backends.onnxruntime.session.np.zeros", no_memory)
    with pytest.raises(river_trt.RiverError, match="KV cache needs"):
        open_session(directory, manifest, SessionOptions(4, SLOTS))


def test_direction_engine_loads_its_directions(directory, make_manifest):
    np.full((LAYERS, 8), 0.25, "<f4").tofile(directory / "directions.bin")
    info = PolicyInfo("direction", (0.5,) * LAYERS, (), "directions.bin")
    write_graph(directory, tiny_graph(), make_manifest, policy=info)
    logits, _ = river_trt.load(directory).forward(np.array([[7]]))
    assert logits[0, 0, 0] == 7 + 0.5 + 800


def test_loading_and_running_imports_no_torch(directory, make_manifest):
    write_graph(directory, tiny_graph(LAYERS), make_manifest)
    code = (
        "import sys, river_trt\n"
        f"engine = river_trt.load({str(directory)!r})\n"
        "engine.generate([1], river_trt.GenerationConfig(max_new_tokens=2, tau=1.0))\n"
        "print(sorted({'torch', 'transformers', 'onnx', 'builders'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_seq_len": 65}, r"max_seq_len must be in 1\.\.64"),
        ({"max_seq_len": 0}, "max_seq_len"),
        ({"max_batch_size": 0}, "max_batch_size"),
        ({"threads": 0}, "threads"),
        ({"prefill_chunk": 0}, "prefill_chunk"),
    ],
)
def test_load_options_out_of_range(directory, options, message):
    with pytest.raises(river_trt.RiverError, match=message):
        river_trt.load(directory, **options)


def test_graph_of_another_model_than_the_manifest_says(directory, make_manifest):
    manifest = make_manifest(files=hash_files(directory))
    for change in ({"hidden_size": 9}, {"vocab_size": 259}, {"num_kv_heads": 2}, {"head_dim": 8}):
        shape = dataclasses.replace(manifest.model.shape, **change)
        model = dataclasses.replace(manifest.model, shape=shape, eos_token_ids=(1,))
        (directory / "manifest.json").unlink()
        files = hash_files(directory)
        write_manifest(directory, make_manifest(model=model, files=files))
        with pytest.raises(EngineError, match="but the manifest's model needs"):
            river_trt.load(directory)


def test_wild_exit_layers_and_failures_of_a_step_are_one_sentence(directory, make_manifest):
    write_graph(directory, tiny_graph(), make_manifest)  # an id is its exit layer
    config = river_trt.GenerationConfig(max_new_tokens=2, tau=1.0)
    with pytest.raises(EngineError, match="gives the exit layers .* has the layers 1..4"):
        river_trt.load(directory).generate([200], config)
    model = tiny_graph(LAYERS)
    gather = next(node for node in model.graph.node if node.input[0] == "tau")
    gather.input[1] = "deepest_64"
    beyond = numpy_helper.from_array(np.array([99]), "deepest_64")
    model.graph.initializer.append(beyond)
    write_graph(directory, model, make_manifest)
    with pytest.raises(EngineError, match="onnxruntime cannot run the engine: .*Gather"):
        river_trt.load(directory).generate([1], config)
