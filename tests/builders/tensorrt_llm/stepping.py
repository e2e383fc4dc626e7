"""Runs a checkpoint's network over the double, as the executor would: requests join and leave."""

from pathlib import Path

import numpy as np
import torch

from builders.decoder import RiverDecoder
from builders.reference import teacher_forced
from river_trt.spec import ExitPolicy
from tests.builders.tensorrt_llm.double.builder import Request, run_step
from tests.builders.tensorrt_llm.double.install import installed
from tests.builders.tensorrt_llm.double.network import Network

# Two requests, teacher-forced: prompt tokens, then generated ones. The second joins a step later.
TEXTS = (
    np.random.default_rng(0).integers(3, 100, 13),
    np.random.default_rng(1).integers(3, 100, 9),
)
PROMPTS = (9, 1)
TOLERANCE = 4e-3


def load_models(checkpoint: Path) -> list:
    """The network's model on every rank; call it inside `installed()`."""
    import tensorrt

    tensorrt.get_plugin_registry().load_library("the plugin")
    from builders.tensorrt_llm.model import RiverForCausalLM

    ranks = len(list(checkpoint.glob("rank*.safetensors")))
    return [RiverForCausalLM.from_checkpoint(str(checkpoint), rank=rank) for rank in range(ranks)]


def decode(checkpoint: Path) -> tuple[list[Network], list[np.ndarray], list[np.ndarray]]:
    """The last step's networks; each text's logits and exit layers, from its prompt's end on."""
    with installed():
        return run_texts(load_models(checkpoint))


def run_texts(models: list) -> tuple[list[Network], list[np.ndarray], list[np.ndarray]]:
    caches = [{} for _ in models]
    logits, exits = ([], []), ([], [])
    networks: list[Network] = []
    done = [0, 0]  # tokens of each text in the cache
    for step in range(max(map(len, TEXTS)) + 1):
        requests = []
        for index, (text, prompt) in enumerate(zip(TEXTS, PROMPTS, strict=True)):
            if step < index or done[index] == len(text):
                continue
            count = 1 if done[index] else prompt
            ids = text[done[index] : done[index] + count].tolist()
            requests.append(Request(index, ids, done[index], prompt))
        if not requests:
            break
        requests.sort(key=lambda request: request.is_generation)  # contexts first
        networks, step_logits, step_exits = run_step(models, caches, requests)
        for row, request in enumerate(requests):
            done[request.key] += len(request.ids)
            logits[request.key].append(step_logits[row].numpy())
            exits[request.key].append(int(step_exits[row]))
    return networks, [np.stack(rows) for rows in logits], [np.array(rows) for rows in exits]


def expected(
    decoder: RiverDecoder, policy: ExitPolicy
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The same of the torch reference: prompts at full depth, then the policy."""
    logits, exits = [], []
    for text, prompt in zip(TEXTS, PROMPTS, strict=True):
        all_logits, all_exits = teacher_forced(decoder, text[None], policy, "token", prompt)
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
        teacher_forced(decoder, text[None], full)
    handle.remove()
    return np.concatenate(found)
