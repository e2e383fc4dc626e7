"""The traced program and its ONNX, on a tiny random Llama."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram

from builders.decoder import RiverDecoder, RiverFormat
from builders.families import ModelConfig
from builders.quantisers import make_quantiser
from builders.reference import policy_inputs
from builders.river_bank import load_decoder, river_format
from builders.source import ModelSource
from builders.tracing import to_onnx, trace
from river_trt.spec import POLICY_INPUTS, STEP_INPUTS, cache_names
from tests.builders.families.tiny_models import LAYERS as FAMILY_LAYERS
from tests.builders.families.tiny_models import TINY_MODELS, save_tiny_model
from tests.builders.tiny_engines import TINY, policy
from tests.builders.tiny_llama import save_tiny_llama

LAYERS, CACHE = 4, 40
RNG = np.random.default_rng(0)
DIRECTIONS = RNG.standard_normal((LAYERS, 64)).astype(np.float32)
POLICIES = {
    "full depth": policy(LAYERS, np.inf),
    "splits": policy(LAYERS, [0.15, 0.75, 0.84, 0.88], (3,)),  # about half pass each layer
    "all river": policy(LAYERS, -np.inf),
    "directions": policy(LAYERS, 0.05, (), DIRECTIONS),
}


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    config: ModelConfig
    river: RiverFormat
    decoder: RiverDecoder
    program: ExportedProgram


@pytest.fixture(scope="module", params=[{}, {"attention_bias": True, "mlp_bias": True}])
def traced(request, tmp_path_factory) -> Traced:
    """Asymmetric without biases, symmetric with them; a tied head, which the program unties."""
    directory = tmp_path_factory.mktemp("model")
    save_tiny_llama(directory, **(TINY | request.param | {"tie_word_embeddings": True}))
    source = ModelSource.open(str(directory))
    symmetric = bool(request.param)
    quantiser = make_quantiser("rtn", 32, symmetric)
    river = river_format(source.config, quantiser, 32, symmetric)
    decoder = load_decoder(source, quantiser, river, 128)
    return Traced(source.config, river, decoder, trace(source.config, river, 128))


@pytest.fixture(scope="module")
def onnx_model(traced) -> onnx_ir.Model:
    return to_onnx(traced.program, LAYERS)


@pytest.fixture(scope="module")
def proto(onnx_model) -> onnx.ModelProto:
    return as_proto(onnx_model)


def as_proto(onnx_model: onnx_ir.Model) -> onnx.ModelProto:
    """With the weights as inputs: ONNX has no other name for a tensor without data."""
    model = onnx_model.clone()
    for value in list(model.graph.initializers.values()):
        if value.const_value is None:
            del model.graph.initializers[value.name]
            model.graph.inputs.append(value)
    return onnx_ir.to_proto(model)


def traced_tiny_model(directory: Path, name: str) -> Traced:
    save_tiny_model(directory, TINY_MODELS[name])
    source = ModelSource.open(str(directory))
    quantiser = make_quantiser("rtn", 32, False)
    river = river_format(source.config, quantiser, 32, False)
    decoder = load_decoder(source, quantiser, river, 64)
    return Traced(source.config, river, decoder, trace(source.config, river, 64))


def step(traced: Traced, batch: int, seq: int, past: int, chosen: Any, scope: str) -> tuple:
    """Inputs of one step over a cache filled with noise; other sizes than the example's."""
    config = traced.config
    seeded = torch.Generator().manual_seed(batch * seq)
    cache = (batch, config.num_kv_heads, CACHE, config.head_dim)
    return (
        torch.randint(config.vocab_size, (batch, seq), generator=seeded),
        torch.arange(past, past + batch, dtype=torch.int32),
        torch.tensor([seq - 1, 0]),
        *policy_inputs(chosen, config.hidden_size, scope),
        [torch.randn(cache, generator=seeded) for _ in cache_names(config.num_layers)],
    )


def test_program_holds_no_weights(traced):
    tensors: dict[str, Tensor] = {**traced.program.state_dict, **traced.program.constants}
    assert all(tensor.is_meta for tensor in tensors.values() if tensor.numel() > 1)
    assert set(traced.program.state_dict) == set(traced.decoder.state_dict())


@pytest.mark.parametrize("chosen", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize(("batch", "seq", "past"), [(1, 1, 0), (1, 7, 20), (5, 1, 9), (4, 11, 3)])
def test_program_with_weights_equals_the_module(traced, chosen, batch, seq, past):
    module = traced.program.module()
    module.load_state_dict(traced.decoder.state_dict(), assign=True)
    exit_layers = set()
    for scope in ("token", "sequence", "batch"):
        inputs = step(traced, batch, seq, past, chosen, scope)
        with torch.inference_mode():
            logits, exit_layer, caches = module(*inputs)
            expected_logits, expected_exit_layer, expected_caches = traced.decoder(*inputs)
        assert logits.shape == (batch, 2, traced.config.vocab_size)
        torch.testing.assert_close(logits, expected_logits, atol=1e-5, rtol=1e-5)
        assert torch.equal(exit_layer, expected_exit_layer)
        for cache, expected in zip(caches, expected_caches, strict=True):
            torch.testing.assert_close(cache, expected, atol=1e-5, rtol=1e-5)
        exit_layers |= set(exit_layer.flatten().tolist())
    if chosen is POLICIES["splits"] and batch * seq > 5:
        assert len(exit_layers) > 1, "tau must split the tokens"


@pytest.mark.parametrize("name", TINY_MODELS)
def test_program_of_every_family_equals_the_module(tmp_path, name):
    traced = traced_tiny_model(tmp_path, name)
    module = traced.program.module()
    module.load_state_dict(traced.decoder.state_dict(), assign=True, strict=False)  # tied: no head
    module.load_state_dict({"lm_head": traced.decoder.lm_head}, assign=True, strict=False)
    inputs = step(traced, 3, 7, 20, policy(FAMILY_LAYERS, 0.5), "token")
    with torch.inference_mode():
        logits, exit_layer, _ = module(*inputs)
        expected_logits, expected_exit_layer, _ = traced.decoder(*inputs)
    torch.testing.assert_close(logits, expected_logits, atol=1e-4, rtol=1e-5)
    assert torch.equal(exit_layer, expected_exit_layer)


@pytest.mark.parametrize("name", ["smollm3", "gemma2"])
def test_onnx_checker_knows_every_form_of_attention(tmp_path, name):
    """Without rotary tables, with a window, with a soft cap."""
    traced = traced_tiny_model(tmp_path, name)
    model = as_proto(to_onnx(traced.program, FAMILY_LAYERS))
    onnx.checker.check_model(model, full_check=True)
    attentions = [node for node in model.graph.node if node.op_type == "Attention"]
    assert len(attentions) == FAMILY_LAYERS
    assert {len(node.input) for node in attentions} == ({6, 8} if name == "smollm3" else {8})


def test_onnx_has_the_names_and_types_of_the_contract(onnx_model):
    kinds = onnx_ir.DataType
    inputs = {value.name: value for value in onnx_model.graph.inputs}
    outputs = {value.name: value for value in onnx_model.graph.outputs}
    assert list(inputs) == [*STEP_INPUTS, *POLICY_INPUTS, *cache_names(LAYERS)]
    assert list(outputs) == ["logits", "exit_layer", *cache_names(LAYERS, "_out")]
    types = {"input_ids": kinds.INT64, "past_lengths": kinds.INT32, "logit_indices": kinds.INT64}
    types |= {"pinned": kinds.BOOL, "use_directions": kinds.BOOL, "gate_scope": kinds.INT32}
    types |= {"exit_layer": kinds.INT32}
    for name, value in {**inputs, **outputs}.items():
        assert value.dtype == types.get(name, kinds.FLOAT), name


def test_onnx_axes_are_dynamic(onnx_model, traced):
    """Which axes are free, and which of them are the same."""
    config = traced.config
    shapes = {
        value.name: [size if isinstance(size, int) else str(size) for size in value.shape]
        for value in (*onnx_model.graph.inputs, *onnx_model.graph.outputs)
    }
    batch, seq = shapes["input_ids"]
    (num_logits,) = shapes["logit_indices"]
    cache = shapes["k_cache.0"][2]
    free = {batch, seq, num_logits, cache}
    assert len(free) == 4 and all(isinstance(axis, str) for axis in free)
    assert shapes["past_lengths"] == [batch]
    assert shapes["logits"] == [batch, num_logits, config.vocab_size]
    assert shapes["exit_layer"] == [batch, seq]
    assert shapes["tau"] == shapes["pinned"] == [LAYERS]
    assert shapes["directions"] == [LAYERS, config.hidden_size]
    assert shapes["use_directions"] == shapes["gate_scope"] == []
    for name in (*cache_names(LAYERS), *cache_names(LAYERS, "_out")):
        assert shapes[name] == [batch, config.num_kv_heads, cache, config.head_dim]


def test_onnx_keeps_the_dialect_and_no_weight_data(onnx_model, traced):
    kinds = [node.op_type for node in onnx_model.graph if node.domain == "river_trt"]
    assert kinds.count("Linear") == 4 * LAYERS
    assert kinds.count("Attention") == kinds.count("Gate") == LAYERS
    assert onnx_model.opset_imports["river_trt"] == 1
    weights = traced.decoder.state_dict()
    initializers = onnx_model.graph.initializers
    data = [value for value in initializers.values() if value.const_value is not None]
    assert all(value.const_value.size <= 4 for value in data), "only small constants have data"
    unfilled = {name for name, value in initializers.items() if value.const_value is None}
    assert unfilled == set(weights)
    for name in unfilled:
        assert list(initializers[name].shape) == list(weights[name].shape), name


def test_onnx_checker_knows_the_dialect(proto):
    onnx.checker.check_model(proto, full_check=True)


@pytest.mark.parametrize("op_type", ["Linear", "Attention", "Gate"])
def test_onnx_checker_refuses_a_node_against_its_schema(proto, op_type):
    """So the schemas above are really looked at: an input is missing, an attribute unknown."""
    for damage in ("input", "attribute"):
        wrong = onnx.ModelProto()
        wrong.CopyFrom(proto)
        node = next(node for node in wrong.graph.node if node.op_type == op_type)
        if damage == "input":
            del node.input[3:]
        else:
            node.attribute.append(onnx.helper.make_attribute("block_size", 32))
        with pytest.raises(onnx.checker.ValidationError):
            onnx.checker.check_model(wrong)
