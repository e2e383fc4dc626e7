"""The network as it is constructed: 30 layers, one attention and one gate each, both banks wired.

Every operator is added to a real TensorRT-RTX network, which infers types and shapes. Then mutants:
each must be noticed, by TensorRT, by the plugins' contract or by the structure.
"""

from importlib.util import find_spec, module_from_spec, spec_from_file_location

import pytest
import torch
from safetensors.torch import load_file, save_file

from river_trt.errors import RiverError
from tests.builders.tensorrt_llm.conversions import convert
from tests.builders.tensorrt_llm.double import modeling, plugins
from tests.builders.tensorrt_llm.double.builder import Request, run_step
from tests.builders.tensorrt_llm.double.install import installed
from tests.builders.tensorrt_llm.double.network import Network, PluginConfig
from tests.builders.tensorrt_llm.stepping import load_models
from tests.builders.tiny_engines import policy
from tests.builders.tiny_llama import save_tiny_llama

LAYERS = 30
PARTS = ("qkv", "attention", "o", "gate_up", "down", "gate")
REQUESTS = [Request(0, [5, 6, 7], 0, 3)]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Of a tiny model of 30 layers, on one rank and on two; half of its tokens exit early."""
    directory = tmp_path_factory.mktemp("thirty")
    save_tiny_llama(directory / "model", num_hidden_layers=LAYERS, hidden_size=64)
    return [
        convert(directory / "model", directory / f"ranks{ranks}", ranks, policy(LAYERS, 0.9))
        for ranks in (1, 2)
    ]


def construct(checkpoint, requests=REQUESTS, mutate=None, config=None) -> list[Network]:
    with installed():
        models = load_models(checkpoint)
        if mutate is not None:
            mutate(models[0])
        networks, _, _ = run_step(models, [{} for _ in models], requests, config)
        return networks


def check_structure(network: Network) -> None:
    """One attention and one gate a layer in order, flags from gate to linears, both banks there."""
    names = [event.name for event in network.events]
    assert names == [f"layers.{layer}.{part}" for layer in range(1, LAYERS + 1) for part in PARTS]
    events = {event.name: event for event in network.events}
    flags = None
    for layer in range(1, LAYERS + 1):
        at = f"layers.{layer}"
        attention, gate = events[f"{at}.attention"], events[f"{at}.gate"]
        assert attention.fields["layer_idx"] == layer - 1
        assert (gate.fields["layer"], gate.fields["num_layers"]) == (layer, LAYERS)
        for part in ("qkv", "o", "gate_up", "down"):
            signature = [
                name for name, _ in plugins.linear_signature(events[f"{at}.{part}"].fields)
            ]
            inputs = dict(zip(signature, events[f"{at}.{part}"].inputs, strict=True))
            assert "weight" in inputs, f"{at}.{part} has no backbone"
            assert ("qweight" in inputs) == (layer > 1)
            if layer > 1:
                assert inputs["use_river"] == flags, f"{at}.{part} reads another layer's flag"
        if layer < LAYERS:
            flags = masked_flags(network, gate.outputs[-1])


def masked_flags(network: Network, flag: str) -> str:
    """The name of `flag` times the mask of generated tokens."""
    definition = network.definition
    for index in range(definition.num_layers):
        layer = definition.get_layer(index)
        if layer.num_inputs == 2 and layer.get_input(0) and layer.get_input(0).name == flag:
            return layer.get_output(0).name
    raise AssertionError(f"nothing reads {flag}")


@pytest.mark.parametrize("ranks", [1, 2])
def test_thirty_layers(checkpoints, ranks):
    for network in construct(checkpoints[ranks - 1]):
        check_structure(network)
        assert set(network.outputs) == {"logits", "exit_layer"}
        assert network.outputs["logits"].dtype.name == "FLOAT"
        assert network.outputs["exit_layer"].dtype.name == "INT32"
        residuals = [e.name for e in network.events if e.fields.get("residual")]
        # Ranks are summed before a residual is added: only gates add inside the plugin then.
        assert all(name.endswith(".gate") for name in residuals) == (ranks == 2)


def test_layers_share_their_table_of_angles(checkpoints):
    """A table takes megabytes; one a layer would double a long model's engine."""
    (network,) = construct(checkpoints[0])
    table = 128 * 16  # positions, rotated values of a head
    assert sum(constant.size == table for constant in network.constants) == 1


def test_plugins_are_the_ones_of_the_sources():
    """Names, order and types of the inputs as in plugins/tensorrt/*.cpp."""
    everything = {"zero_points": 1, "pre_scale": 1, "bias": 1, "norm": 1, "residual": 1}
    assert plugins.linear_signature(everything) == plugins.source_inputs("RiverLinear")
    middle = {"layer": 2, "num_layers": 3, "residual": 1, "direction": 1}
    assert plugins.gate_signature(middle) == plugins.source_inputs("RiverGate")


def test_a_prompts_tokens_never_take_the_river(checkpoints):
    """In one step with a generated token, which does."""
    (network,) = construct(checkpoints[0], [Request(0, [5, 6], 0, 2)])
    flags = masked_flags(
        network, next(e for e in network.events if e.name == "layers.5.gate").outputs[-1]
    )
    assert not network.values[flags].any()


# --- mutants ---


def layer_mutant(change):
    return lambda model: change(model.transformer.layers[7])


def set_layer_index(layer):
    layer.attention.layer = 6


def swap_linears_of_a_bank(layer):
    layer.mlp.fc.qweight, layer.attention.qkv.qweight = (
        layer.attention.qkv.qweight,
        layer.mlp.fc.qweight,
    )


def give_backbone_only(layer):
    layer.mlp.proj.layer = 0
    forward = layer.mlp.proj.forward
    layer.mlp.proj.forward = lambda x, use_river: forward(x, None)


def ignore_the_flag(layer):
    forward = layer.mlp.fc.forward
    layer.mlp.fc.forward = lambda x, flag, **rest: forward(x, flag * 0, **rest)


def leave_zero_points(layer):
    parameters = layer.attention.qkv._parameters
    parameters["left"] = parameters.pop("zero_points")


def halve_heads(layer):
    layer.attention.num_heads //= 2


MUTANTS = {
    "wrong layer_idx": set_layer_index,
    "swapped bank": swap_linears_of_a_bank,
    "no river": give_backbone_only,
    "flag of nobody": ignore_the_flag,
    "zero points that nobody reads": leave_zero_points,
    "half of the heads": halve_heads,
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_noticed(checkpoints, mutant):
    with pytest.raises((AssertionError, RiverError, RuntimeError)):
        (network,) = construct(checkpoints[0], mutate=layer_mutant(MUTANTS[mutant]))
        check_structure(network)


def test_a_gate_left_out_is_noticed(checkpoints):
    def skip(model):
        gate = model.transformer.exit_policy.gate

        def gate_but_not_layer_5(layer, h_in, residual, delta, state, switches):
            if layer == 5:
                return residual + delta, state
            return gate(layer, h_in, residual, delta, state, switches)

        model.transformer.exit_policy.gate = gate_but_not_layer_5

    with pytest.raises(AssertionError):
        check_structure(construct(checkpoints[0], mutate=skip)[0])


def tamper(checkpoint, out, change) -> None:
    out.mkdir()
    (out / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    tensors = load_file(checkpoint / "rank0.safetensors")
    change(tensors)
    save_file(tensors, out / "rank0.safetensors")


NAME, FIRST = "transformer.layers.7.attention.qkv.", "transformer.layers.0.attention.qkv."
TAMPERED = {
    "missing shard": lambda t: t.pop(f"{NAME}qweight"),
    "left-over tensor": lambda t: t.update({f"{FIRST}qweight": t[f"{NAME}qweight"].clone()}),
    "wrong type": lambda t: t.update({f"{NAME}scales": t[f"{NAME}scales"].float()}),
    "wrong shape": lambda t: t.update({f"{NAME}weight": t[f"{NAME}weight"][:-1].contiguous()}),
    "river of another linear": lambda t: t.update(
        {f"{NAME}qweight": t["transformer.layers.7.mlp.fc.qweight"].clone()}
    ),
    "backbone as the river": lambda t: t.update(
        {f"{NAME}qweight": t[f"{NAME}weight"].view(torch.int32).clone()}
    ),
    "other name": lambda t: t.update({"transformer.norm.weight": t.pop("transformer.ln_f.weight")}),
}


@pytest.mark.parametrize("change", TAMPERED)
def test_a_wrong_checkpoint_is_noticed(checkpoints, tmp_path, change):
    tamper(checkpoints[0], tmp_path / "wrong", TAMPERED[change])
    with pytest.raises((AssertionError, RuntimeError)):
        construct(tmp_path / "wrong")


def test_a_missing_rank_is_noticed(checkpoints, tmp_path):
    tamper(checkpoints[1], tmp_path / "half", lambda tensors: None)
    with installed(), pytest.raises(FileNotFoundError), torch.inference_mode():
        load_models(tmp_path / "half")
        from builders.tensorrt_llm.model import RiverForCausalLM

        RiverForCausalLM.from_checkpoint(str(tmp_path / "half"), rank=1)


@pytest.mark.parametrize(
    "feature", ["gpt_attention_plugin", "remove_input_padding", "paged_kv_cache"]
)
def test_a_network_without_what_it_needs_is_refused(checkpoints, feature):
    with pytest.raises(RiverError, match=f"needs {feature}"):
        construct(checkpoints[0], config=PluginConfig(**{feature: False}))


def test_a_plugin_that_is_not_built_is_one_sentence(checkpoints, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    message = "no tensorrt plugin for version 10.14.1.48 is built; run `river-trt plugin build"
    with installed(), pytest.raises(RiverError, match=message):
        from builders.tensorrt_llm.model import RiverForCausalLM

        model = RiverForCausalLM.from_checkpoint(str(checkpoints[0]), rank=0)
        run_step([model], [{}], REQUESTS)


def test_the_file_for_trtllm_build(checkpoints):
    """Run as trtllm-build runs it: config.json's architecture is known then, workers find it."""
    path = find_spec("builders.tensorrt_llm.trtllm_build").origin
    with installed() as tensorrt:
        tensorrt.get_plugin_registry().load_library("the plugin")
        spec = spec_from_file_location("models", path)
        loaded = module_from_spec(spec)
        spec.loader.exec_module(loaded)
        config = modeling.PretrainedConfig.from_json_file(str(checkpoints[0] / "config.json"))
        model = loaded.RiverForCausalLM.from_checkpoint(str(checkpoints[0]), config=config)
        assert type(model).__module__ == "builders.tensorrt_llm.model"
        (network,), _, _ = run_step([model], [{}], REQUESTS)
    check_structure(network)
