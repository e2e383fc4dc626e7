"""A converted checkpoint: the network's parameters once each, and ranks that make up the model.

Also with real weights: SmolLM2 has 9 heads in 3 groups, so two ranks need padding heads.
"""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from builders.quantisers import make_quantiser
from builders.source import ModelSource
from river_trt.cli.main import main
from river_trt.engine_dir import read_engine_dir
from river_trt.errors import EngineError, RiverError
from tests.builders.families.tiny_models import TINY_MODELS, save_tiny_model
from tests.builders.tensorrt_llm.conversions import GROUP, convert, reference
from tests.builders.tensorrt_llm.double.install import installed
from tests.builders.tensorrt_llm.stepping import (
    Text,
    assert_equal,
    decode,
    expected,
    load_models,
)
from tests.builders.tiny_engines import policy
from tests.builders.tiny_llama import save_tiny_llama


@pytest.fixture(scope="module", params=TINY_MODELS)
def tiny(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    save_tiny_model(directory / "model", TINY_MODELS[request.param])
    quantiser = TINY_MODELS[request.param].quantiser
    for ranks in (1, 2):
        convert(directory / "model", directory / f"ranks{ranks}", ranks, quantiser=quantiser)
    return directory


def check_parameters(checkpoint) -> None:
    """Names, types and shapes of every rank's file are those of the network's parameters."""
    with installed():
        for rank, model in enumerate(load_models(checkpoint)):  # loading fails on a wrong one
            wanted = {name: (p.dtype.name, p.shape) for name, p in model.named_parameters()}
            with safe_open(checkpoint / f"rank{rank}.safetensors", "pt") as file:
                names = {"F16": "HALF", "BF16": "BF16", "F32": "FLOAT", "I32": "INT32"}
                found = {}
                for name in file.keys():  # noqa: SIM118 (no dictionary)
                    part = file.get_slice(name)
                    found[name] = (names[part.get_dtype()], tuple(part.get_shape()))
            assert found == wanted


def linear_of_all_ranks(parts, role: str, config: dict, true_kv: int, true_heads: int, inner: int):
    """One linear put together from the ranks, padding cut; for rows or columns in rank order."""
    ranks, size = len(parts), config["head_size"]
    heads, kv = config["num_attention_heads"] // ranks, config["num_key_value_heads"] // ranks
    if role == "attention.qkv":
        q, k, v = zip(
            *(part.split([heads * size, kv * size, kv * size]) for part in parts), strict=True
        )
        widths = (true_heads * size, true_kv * size, true_kv * size)
        return torch.cat([torch.cat(x)[:width] for x, width in zip((q, k, v), widths, strict=True)])
    if role == "mlp.fc":
        gates, ups = zip(*(part.chunk(2) for part in parts), strict=True)
        return torch.cat([torch.cat(gates)[:inner], torch.cat(ups)[:inner]])
    width = true_heads * size if role == "attention.dense" else inner
    return torch.cat(list(parts), 1)[:, :width]


def dequantised(tensors: dict, path: str, columns: int, rows: int) -> torch.Tensor:
    """The river of a linear from the file's words: (code - zero) * scale, [rows, columns]."""
    words = tensors[f"{path}.qweight"].numpy().view(np.uint8).reshape(rows, -1)
    groups = tensors[f"{path}.scales"].shape[1]
    codes = np.stack([words & 15, words >> 4], -1).reshape(rows, groups, -1).astype(np.float32)
    zero = 8.0
    if f"{path}.zero_points" in tensors:
        zero = tensors[f"{path}.zero_points"].numpy().view(np.uint8)[: rows * groups]
        zero = zero.reshape(rows, groups, 1).astype(np.float32)
    values = (codes - zero) * tensors[f"{path}.scales"].float().numpy()[..., None]
    return torch.from_numpy(values.reshape(rows, -1)[:, :columns].copy())


LINEARS = {"qkv": "attention.qkv", "o": "attention.dense", "gate_up": "mlp.fc", "down": "mlp.proj"}


def check_reassembly(checkpoint, model: str, layers, quantiser=None) -> None:
    """Backbone of the ranks = the model's; river = what the quantiser makes of the whole weight."""
    source = ModelSource.open(model)
    config = json.loads((checkpoint / "config.json").read_text())
    files = [load_file(path) for path in sorted(checkpoint.glob("rank*.safetensors"))]
    sizes = (source.config.num_kv_heads, source.config.num_heads, source.config.intermediate_size)
    for layer in layers:
        weights = source.layer(layer)
        for linear, path in LINEARS.items():
            name = f"transformer.layers.{layer}.{path}"
            whole = linear_of_all_ranks([f[f"{name}.weight"] for f in files], path, config, *sizes)
            torch.testing.assert_close(whole, weights.linears[linear].half(), atol=0, rtol=0)
            if layer == 0:
                assert f"{name}.qweight" not in files[0]
                continue
            shapes = [f[f"{name}.weight"].shape for f in files]
            rivers = [
                dequantised(f, name, columns, rows)
                for f, (rows, columns) in zip(files, shapes, strict=True)
            ]
            river = linear_of_all_ranks(rivers, path, config, *sizes)
            if quantiser is not None:
                wanted = quantiser.quantise(weights.linears[linear])
                wanted = wanted.scale_rows(torch.ones(len(wanted.scales)))
                scales = wanted.scales.half().float()
                zero = wanted.zero_points[..., None].float()
                right = ((wanted.codes().float() - zero) * scales[..., None]).flatten(1)
                right = right[:, : whole.shape[1]]
                torch.testing.assert_close(river, right, atol=0, rtol=0)
    for name in ("transformer.vocab_embedding.weight", "transformer.ln_f.weight"):
        assert all(torch.equal(file[name], files[0][name]) for file in files)
    head = torch.cat([file["lm_head.weight"] for file in files])[: source.config.vocab_size]
    torch.testing.assert_close(head, source.shared().lm_head.half(), atol=0, rtol=0)


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_parameter_of_the_network_is_there_once(tiny, ranks):
    check_parameters(tiny / f"ranks{ranks}")


def test_ranks_make_up_the_model(tiny):
    factors = "ministral3" in str(tiny) or "phi4-mini" in str(tiny)
    if factors:  # q and k carry the angles' factor: compared with one rank instead
        one, two = (load_file(tiny / "ranks1" / "rank0.safetensors"), tiny / "ranks2")
        files = [load_file(path) for path in sorted(two.glob("rank*.safetensors"))]
        config = json.loads((two / "config.json").read_text())
        for path in LINEARS.values():
            name = f"transformer.layers.1.{path}.weight"
            sizes = (2, 4, 96)
            whole = linear_of_all_ranks([file[name] for file in files], path, config, *sizes)
            torch.testing.assert_close(whole, one[name], atol=0, rtol=0)
        return
    for ranks in (1, 2):
        check_reassembly(tiny / f"ranks{ranks}", str(tiny / "model"), range(3))


def test_a_bias_that_ranks_sum_up_is_brought_by_one(tmp_path):
    save_tiny_model(tmp_path / "model", TINY_MODELS["llama"])
    convert(tmp_path / "model", tmp_path / "checkpoint", 2)
    files = [load_file(tmp_path / "checkpoint" / f"rank{rank}.safetensors") for rank in (0, 1)]
    name = "transformer.layers.1.mlp.proj.bias"
    assert files[0][name].any() and not files[1][name].any()


@pytest.mark.real_model
@pytest.mark.parametrize("ranks", [1, 2])
def test_smollm2(ranks, tmp_path):
    options = {"group_size": 64, "tau": 0.9, "pinned": (30,)}
    checkpoint = convert("demo", tmp_path / "checkpoint", ranks, **options)
    check_parameters(checkpoint)
    source = ModelSource.open("demo")
    assert source.config.num_layers == 30
    config = json.loads((checkpoint / "config.json").read_text())
    padded = {1: (9, 3), 2: (12, 4)}[ranks]
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == padded
    check_reassembly(checkpoint, "demo", (0, 1, 29))
    if ranks == 2:  # the network, over the double, with its padding heads
        text = Text(np.array([1, 504, 2190, 288, 1035, 314, 260, 1789, 29, 216]), 8)
        networks, *got = decode(checkpoint, [text])
        wanted = expected(reference("demo", group_size=64), policy(30, 0.9, (30,)), [text])
        assert_equal(got, wanted, source.config.vocab_size)
        assert len(networks[0].events) == 30 * 6


def test_the_river_of_the_ranks_is_the_quantisers(tmp_path):
    save_tiny_llama(tmp_path / "model", hidden_size=64)
    for ranks in (1, 2):
        convert(tmp_path / "model", tmp_path / f"ranks{ranks}", ranks)
        quantiser = make_quantiser("rtn", GROUP, False)
        check_reassembly(tmp_path / f"ranks{ranks}", str(tmp_path / "model"), (0, 1), quantiser)


def test_a_bfloat16_checkpoint(tmp_path):
    save_tiny_llama(tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "checkpoint", dtype="bfloat16")
    check_parameters(tmp_path / "checkpoint")
    tensors = load_file(tmp_path / "checkpoint" / "rank0.safetensors")
    kinds = {name.rpartition(".")[2]: tensor.dtype for name, tensor in tensors.items()}
    assert kinds["weight"] == torch.bfloat16 and kinds["scales"] == torch.float16


def test_windows_and_policy_are_in_the_checkpoint(tmp_path):
    save_tiny_model(tmp_path / "model", TINY_MODELS["gemma3"])
    taus = [0.5, np.inf, -np.inf]
    convert(tmp_path / "model", tmp_path / "checkpoint", 1, policy(3, taus, (2,)), dtype="bfloat16")
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert config["runtime_defaults"]["max_attention_window"] == [6, 256, 6]
    tensors = load_file(tmp_path / "checkpoint" / "rank0.safetensors")
    assert tensors["transformer.exit_policy.tau"].tolist() == taus
    assert tensors["transformer.exit_policy.pinned"].tolist() == [0, 1, 0]
    manifest = read_engine_dir(tmp_path / "checkpoint")
    assert manifest.policy.pinned == (2,) and manifest.backend.target == "checkpoint"


def test_config_json_is_plain_json_that_names_every_key(tmp_path):
    save_tiny_llama(tmp_path / "model")
    convert(tmp_path / "model", tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "config.json"
    values = json.loads(path.read_text(), parse_constant=lambda text: pytest.fail(text))
    from builders.tensorrt_llm.river_section import RiverSection

    section = values["river"]
    assert RiverSection.from_dict(section).to_dict() == RiverSection.from_dict(section).to_dict()
    with pytest.raises(EngineError, match=r"river\.tau is unknown"):
        RiverSection.from_dict(section | {"tau": 1})
    section.pop("ropes")
    with pytest.raises(EngineError, match=r"river\.ropes is missing"):
        RiverSection.from_dict(section)


def test_a_conversion_that_fails_leaves_nothing(tmp_path, monkeypatch):
    from builders.tensorrt_llm import convert as module

    save_tiny_llama(tmp_path / "model")

    def fail(*args, **kwargs):
        raise RiverError("no more")

    monkeypatch.setattr(module, "fold_rotary_factor", fail)
    with pytest.raises(RiverError, match="no more"):
        convert(tmp_path / "model", tmp_path / "checkpoint")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tp", "9"], "tensor parallelism must be in 1..8, got 9"),
        (["--tp", "3"], "3 ranks cannot share 2 key/value heads"),
        (["--group-size", "64", "--tp", "2"], "inside a group of 64 weights"),
        (["--format", "gguf"], "invalid choice: 'gguf'"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path, capsys, options, message):
    save_tiny_llama(tmp_path / "model")
    capsys.readouterr()  # transformers writes of its shards
    arguments = ["convert", "--format", "tensorrt-llm", "--model", str(tmp_path / "model")]
    code = main([*arguments, "--out", str(tmp_path / "out"), "--quantiser", "rtn", *options])
    error = capsys.readouterr().err.strip()
    assert code == 2 and error.count("\n") == 0 and message in error
    assert not (tmp_path / "out").exists()


def test_convert_from_the_command_line(tmp_path, capsys):
    save_tiny_llama(tmp_path / "model", hidden_size=64)
    capsys.readouterr()
    arguments = ["convert", "--format", "tensorrt-llm", "--model", str(tmp_path / "model")]
    options = ["--quantiser", "rtn", "--group-size", "32", "--tp", "2", "--tau", "0.9", "--json"]
    assert main([*arguments, "--out", str(tmp_path / "out"), *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert set(printed["manifest"]["files"]) >= {"rank0.safetensors", "rank1.safetensors"}
    assert main(["inspect", str(tmp_path / "out")]) == 0
