"""Runs a checkpoint's network over the double, as the executor would: requests join and leave."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from builders.decoder import RiverDecoder
from builders.reference import teacher_forced
from river_trt.spec import ExitPolicy
from tests.builders.tensorrt_llm.double.builder import Request, run_step
from tests.builders.tensorrt_llm.double.install import installed
from tests.builders.tensorrt_llm.double.network import Network

TOLERANCE = 4e-3


@dataclass(frozen=True, slots=True)
class Text:
    """Teacher-forced: the first `prompt` tokens are a prompt, the others generated."""

    ids: np.ndarray
    prompt: int
    chunk: int = 1 << 30  # tokens of the prompt that a step takes at most


# Two requests in flight; the second one joins a step later.
TEXTS = (
    Text(np.random.default_rng(0).integers(3, 100, 13), 9),
    Text(np.random.default_rng(1).integers(3, 100, 9), 2),
)


def load_models(checkpoint: Path) -> list:
    """The network's model on every rank; call it inside `installed()`."""
    import tensorrt

    tensorrt.get_plugin_registry().load_library("the plugin")
    from builders.tensorrt_llm.model import RiverForCausalLM

    ranks = len(list(checkpoint.glob("rank*.safetensors")))
    return [RiverForCausalLM.from_checkpoint(str(checkpoint), rank=rank) for rank in range(ranks)]


def decode(
    checkpoint: Path, texts: Sequence[Text] = TEXTS
) -> tuple[list[Network], list[np.ndarray], list[np.ndarray]]:
    """The last step's networks; each text's logits and exit layers, from its prompt's end on."""
    with installed():
        return run_texts(load_models(checkpoint), texts)


def run_texts(
    models: list, texts: Sequence[Text] = TEXTS
) -> tuple[list[Network], list[np.ndarray], list[np.ndarray]]:
    caches = [{} for _ in models]
    logits, exits = [[] for _ in texts], [[] for _ in texts]
    networks: list[Network] = []
    done = [0 for _ in texts]  # tokens of each text in the cache
    for step in itertools.count():
        requests = []
        for index, text in enumerate(texts):
            if step < index or done[index] == len(text.ids):
                continue
            left = text.prompt - done[index]
            count = min(left, text.chunk) if left > 0 else 1
            ids = text.ids[done[index] : done[index] + count].tolist()
            requests.append(Request(index, ids, done[index], text.prompt))
        if not requests:
            break
        requests.sort(key=lambda request: request.is_generation)  # contexts first
        networks, step_logits, step_exits = run_step(models, caches, requests)
        for row, request in enumerate(requests):
            done[request.key] += len(request.ids)
            if done[request.key] < request.prompt:  # a chunk's logits are nobody's
                continue
            logits[request.key].append(step_logits[row].numpy())
            exits[request.key].append(int(step_exits[row]))
    return networks, [np.stack(rows) for rows in logits], [np.array(rows) for rows in exits]


def expected(
    decoder: RiverDecoder, policy: ExitPolicy, texts: Sequence[Text] = TEXTS
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The same of the torch reference: prompts at full depth, then the policy."""
    logits, exits = [], []
    for text in texts:
        ids, prompt = text.ids[None], text.prompt
        all_logits, all_exits = teacher_forced(decoder, ids, policy, "token", prompt)
        logits.append(all_logits[0, prompt - 1 :])
        exits.append(all_exits[0, prompt - 1 :])
        exits[-1][0] = decoder.config.num_layers
    return logits, exits


def assert_equal(got: tuple[list, list], wanted: tuple[list, list], vocab: int) -> np.ndarray:
    """Same exit layers and logits; returns all exit layers."""
    for found, right in zip(got[1], wanted[1], strict=True):
        np.testing.assert_array_equal(found, right)
    for found, right in zip(got[0], wanted[0], strict=True):
        np.testing.assert_allclose(found[:, :vocab], right, atol=TOLERANCE, rtol=0)
    return np.concatenate(wanted[1])


def middle_policy(decoder: RiverDecoder) -> ExitPolicy:
    """Thresholds in the widest gap near the middle of the scores: no token is close to one."""
    layers = decoder.config.num_layers
    spread = np.full(layers, 0.0, np.float32)
    for layer in range(layers):
        scores = layer_scores(decoder, layer)
        ordered = np.sort(scores)
        inner = ordered[len(ordered) // 4 : 3 * len(ordered) // 4 + 1]
        gap = int(np.argmax(np.diff(inner)))
        spread[layer] = (inner[gap] + inner[gap + 1]) / 2
    pinned = np.zeros(layers, np.bool_)
    return ExitPolicy(spread, pinned)


def layer_scores(decoder: RiverDecoder, layer: int) -> np.ndarray:
    """Cosines of a layer's input and output on the backbone, over both texts."""
    found: list[np.ndarray] = []

    def hook(module, inputs, outputs):
        h_in, h_out = inputs[0].float(), outputs[0].float()
        found.append(torch.nn.functional.cosine_similarity(h_in, h_out, -1).numpy().ravel())

    handle = decoder.layers[layer].register_forward_hook(hook)
    full = ExitPolicy.full_depth(decoder.config.num_layers)
    for text in TEXTS:
        teacher_forced(decoder, text.ids[None], full)
    handle.remove()
    return np.concatenate(found)
