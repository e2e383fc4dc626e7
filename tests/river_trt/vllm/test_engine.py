"""The real vLLM on a CPU: batches, prefix caching, chunks, preemption, ranks, bad input."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from river_trt.spec import ExitPolicy
from tests.builders.families.tiny_models import LAYERS, WINDOW
from tests.river_trt.vllm.environment import needs_vllm, run_driver
from tests.river_trt.vllm.models import Served, forced, make, request, splitting_tau

pytestmark = needs_vllm
RNG = np.random.default_rng(2)
SHARED = RNG.integers(3, 112, 64).tolist()  # two blocks of the cache
LENGTHS = (1, 2, 3, 5, 7, 8, 9, 12, 17, 20, 25, 31, 32, 33, 40, 64)
NEW = (24, 3, 17, 9)
# Of 32 tokens: enough for the prompts of the growing requests, too few for what follows them.
BLOCKS = 16
FLOAT32 = {"river": {"river_activation": "float32"}}


def directions() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((LAYERS, 128)).astype(np.float32)


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Served:
    """Two ranks can share it: 128 columns in groups of 32."""
    return make(tmp_path_factory.mktemp("served"), "smollm3", intermediate_size=128)


@pytest.fixture(scope="module")
def directed(tmp_path_factory) -> Served:
    """As a calibration leaves it: directions, a tau a layer, a pin."""
    tau = np.array([0.02, np.inf, np.inf], np.float32)
    policy = ExitPolicy(tau, np.array([False, True, False]), directions())
    return make(tmp_path_factory.mktemp("directed"), "llama", policy)


@pytest.fixture(scope="module")
def tau(served) -> list[float]:
    return splitting_tau(served.hf, RNG.integers(3, 112, 8 * WINDOW).tolist())


@pytest.fixture(scope="module")
def requests(tau) -> list[dict[str, Any]]:
    """Sixteen of all lengths, their policies in turn."""
    policies = [(tau, ()), (np.inf, ()), (forced(1), (LAYERS,)), (tau, (2,))]
    made = []
    for index, length in enumerate(LENGTHS):
        prompt = RNG.integers(3, 112, length).tolist()
        if length > 8:
            prompt = [*SHARED, *prompt][: max(length, 40)]
        chosen, pinned = policies[index % len(policies)]
        made.append(request(prompt, chosen, pinned, NEW[index % len(NEW)]))
    return made


@pytest.fixture(scope="module")
def growing(tau) -> list[dict[str, Any]]:
    return [request(RNG.integers(3, 112, 28).tolist(), tau, (), 60) for _ in range(6)]


def broken(river: Path, folder: Path, **section: Any) -> str:
    """A copy of the checkpoint whose key `river` differs."""
    shutil.copytree(river, folder)
    config = json.loads((folder / "config.json").read_text())
    config["river"] |= section
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.fixture(scope="module")
def results(served, directed, requests, growing, tau, tmp_path_factory) -> dict[str, Any]:
    folder = Path(tmp_path_factory.mktemp("driver"))
    river, asked = str(served.river), {"additional_config": FLOAT32}
    small = {"num_gpu_blocks_override": BLOCKS, "block_size": 32, "disable_log_stats": False}
    chunked = {"max_num_batched_tokens": 24, "enable_chunked_prefill": True, "block_size": 32}
    alone = {"enable_prefix_caching": False}
    plain = {"hf_overrides": {"architectures": ["RiverForCausalLM"]}}
    two = [request(requests[0]["prompt"], tau), request(requests[9]["prompt"], tau)]

    def case(name: str, engine: dict[str, Any], *batches: Any, model: str = river) -> Any:
        return {"name": name, "model": model, "engine": engine, "batches": list(batches)}

    def bad(name: str, model: str = river, **engine: Any) -> Any:
        return case(name, engine, two, model=model)

    cases = [
        case("alone", asked | alone, *([one] for one in requests)),
        case("together", asked | chunked | {"enable_prefix_caching": True}, requests, requests),
        case("growing alone", asked | alone, *([one] for one in growing)),
        case("preempted", asked | small | alone, growing),
        case("compiled", asked | {"enforce_eager": False}, requests[:4]),
        case("directed", asked, [request(requests[9]["prompt"])], model=str(directed.river)),
        case("a request out of range", asked, [request([3, 4, 5], pinned=(LAYERS + 1,))]),
        case(
            "a request with text", asked, [request([3, 4, 5]) | {"extra_args": {"river_tau": "x"}}]
        ),
        bad("plain", str(served.plain), **plain),
        bad("newer", broken(served.river, folder / "newer", format=2)),
        bad("damaged", broken(served.river, folder / "damaged", head_dim="many")),
        bad("unknown setting", additional_config={"river": {"depth": 4}}),
        bad("inside a group", str(directed.river), tensor_parallel_size=2),
        bad("three ranks", tensor_parallel_size=3),
        bad("drafts", speculative_config={"method": "ngram", "num_speculative_tokens": 2}),
        case("two ranks", asked | {"tensor_parallel_size": 2}, requests[:4]),
    ]
    return run_driver(folder, cases)


def answers(results: dict[str, Any], name: str) -> list[list[Any]]:
    """(tokens, exit layers) of each request, a list a batch."""
    assert "error" not in results[name], results[name]
    return [
        [(answer["token_ids"], answer["exit_layers"]) for answer in batch]
        for batch in results[name]["batches"]
    ]


def test_each_alone_equals_our_runtime(served, results, requests):
    for asked, (found,) in zip(requests, answers(results, "alone"), strict=True):
        extra = asked["extra_args"]
        tau = extra["river_tau"]
        taus = float(tau) if isinstance(tau, str) else [float(value) for value in tau]
        pinned = tuple(extra["river_pinned"])
        expected = served.expected(asked["prompt"], taus, pinned, asked["max_tokens"])
        assert found == (expected.token_ids, expected.exit_layers.tolist())


def test_a_batch_with_prefix_caching_and_chunks_equals_each_alone(results):
    alone = [answer for (answer,) in answers(results, "alone")]
    first, again = answers(results, "together")
    assert first == alone
    assert [tokens for tokens, _ in again] == [tokens for tokens, _ in alone]
    cached = [answer["cached"] for answer in results["together"]["batches"][1]]
    assert max(cached) >= 32


def test_preemption_changes_nothing(results):
    assert results["preempted"]["preemptions"] > 0
    (found,) = answers(results, "preempted")
    assert found == [answer for (answer,) in answers(results, "growing alone")]


@pytest.mark.parametrize("name", ["compiled", "two ranks"])
def test_compiled_or_on_two_ranks_it_is_the_same(results, name):
    (found,) = answers(results, name)
    assert found == [answer for (answer,) in answers(results, "alone")][:4]


def test_a_calibrated_policy_comes_with_the_checkpoint(directed, results, requests):
    ((found,),) = answers(results, "directed")
    expected = directed.expected(requests[9]["prompt"], None, None)
    assert found == (expected.token_ids, expected.exit_layers.tolist())
    assert len(set(expected.exit_layers.tolist()[1:])) > 1


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("plain", "is a plain checkpoint without a river: make a River checkpoint of it"),
        ("newer", "has format 2, and this river-trt reads format 1: upgrade river-trt"),
        ("damaged", "config.json's key river is damaged (head_dim is 'many')"),
        ("unknown setting", "additional_config: river.depth is unknown; known are tau, pinned"),
        ("inside a group", "down is cut inside a group of 32 weights (48 inputs a rank)"),
        ("three ranks", "3 tensor-parallel ranks cannot share 4 attention heads"),
        ("drafts", "a River model takes no speculative_config"),
        ("a request out of range", "pinned layer 4 is outside 1..3"),
        ("a request with text", 'tau must be a number, or "inf" or "-inf", got \'x\''),
    ],
)
def test_bad_input_is_one_sentence(results, name, sentence):
    assert sentence in results[name]["error"]


def test_without_operators_and_a_compiler_it_says_what_to_do(served, tmp_path):
    case = {"name": "bare", "model": str(served.river), "batches": []}
    bare = {"CXX": "missing", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    found = run_driver(tmp_path, [case], **bare)["bare"]
    assert "need a C++ compiler and CXX names 'missing'" in found["error"]
