"""Peers as processes: transformers on a tiny Llama; what is missing or broken is said."""

import importlib.util

import pytest
import torch

from river_trt.benchmark.peers import EXTRAS, Peer
from river_trt.errors import MissingDependencyError, RiverError
from tests.builders.tiny_llama import save_tiny_llama

PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("peers") / "model"
    return save_tiny_llama(directory).eval(), directory


def test_transformers_decodes_greedily_and_counts_its_steps(model, tmp_path):
    hf, directory = model
    expected = hf.generate(
        torch.tensor([PROMPT]), max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    with Peer("transformers", str(directory), tmp_path, threads=1) as peer:
        assert peer.details["dtype"] == "float32"
        assert peer._ask(PROMPT, 6)["token_ids"] == expected[0, len(PROMPT) :].tolist()
        found = peer.run([[PROMPT], [PROMPT[:2]]], 6)
    assert (found.tokens, found.steps) == (10, 10)
    assert found.seconds > 0 and len(found.first_token_seconds) == 2
    assert found.mean_backbone_layers is None and found.read_bytes is None
    assert peer._process.poll() is not None, "the process must end with the context"


@pytest.mark.parametrize("name", [name for name in EXTRAS if name != "transformers"])
def test_a_peer_that_is_not_installed_says_how_to_install_it(name, tmp_path):
    module = {"genai": "onnxruntime_genai", "llama.cpp": "llama_cpp"}[name.partition("-")[0]]
    if importlib.util.find_spec(module) is not None:
        pytest.skip(f"{module} is installed")
    with pytest.raises(MissingDependencyError, match="not installed: pip install"):
        Peer(name, "demo", tmp_path, 1)


def test_weights_that_a_peer_cannot_read_are_named(tmp_path):
    with pytest.raises(RiverError, match="transformers failed: .*is not a directory with config"):
        Peer("transformers", str(tmp_path / "nothing"), tmp_path / "work", 1)
