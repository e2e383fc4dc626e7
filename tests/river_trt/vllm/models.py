"""Tiny models in shapes that vLLM's attention on CPUs takes, their engines and checkpoints."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

import river_trt
from builders.build import BuildOptions, build
from builders.source import ModelSource
from river_trt.policy_file import PolicyFile
from river_trt.spec import ExitPolicy
from tests.builders.families.tiny_models import LAYERS, TINY_MODELS, WINDOW, save_tiny_model

HEAD_DIM = 32  # the least of vLLM's
GROUP = 32
PROMPT = np.random.default_rng(0).integers(3, 112, 2 * WINDOW).tolist()
NEW_TOKENS = 4 * WINDOW  # the text goes on for several windows
INF = "inf"  # of JSON


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """One model: as its publisher has it, as an engine of ours, as a River checkpoint."""

    name: str
    hf: PreTrainedModel
    engine: river_trt.Engine
    plain: Path
    river: Path

    def expected(
        self,
        prompt: list[int],
        tau: Any,
        pinned: tuple[int, ...] | None = (),
        new: int = NEW_TOKENS,
    ) -> river_trt.GenerationResult:
        """What our own runtime gives."""
        config = river_trt.GenerationConfig(
            max_new_tokens=new, tau=tau, pinned=pinned, ignore_eos=True, temperature=0.0
        )
        return self.engine.generate([prompt], config)[0]


def make(directory: Path, family: str, policy: ExitPolicy | None = None, **more: Any) -> Served:
    """policy: of the engine and the checkpoint; more: of the model's config."""
    tiny = TINY_MODELS[family]
    wide = {"head_dim": HEAD_DIM} if "head_dim" in tiny.config else {"hidden_size": 4 * HEAD_DIM}
    model = save_tiny_model(
        directory / "model", dataclasses.replace(tiny, config=tiny.config | wide | more)
    )
    saved = None if policy is None else _save(directory, policy)
    # Two families' worth of the quantiser that looks at text: the rest is the same numbers faster.
    quantiser = tiny.quantiser if family in ("llama", "phi3") else "rtn"
    build(
        BuildOptions(
            str(directory / "model"),
            directory / "engine",
            quantiser=quantiser,
            group_size=GROUP,
            river_activation="float32",
            policy=saved,
        )
    )
    convert(directory / "model", directory / "river", quantiser, policy=saved)
    engine = river_trt.load(directory / "engine")
    return Served(family, model, engine, directory / "model", directory / "river")


def convert(
    model: Path | str, out: Path, quantiser: str = "rtn", group_size: int = GROUP, **options: Any
) -> Path:
    """`river-trt convert --format vllm`."""
    asked = {"backend": "river-checkpoint", "quantiser": quantiser, "group_size": group_size}
    build(BuildOptions(str(model), out, **asked, **options))
    return out


def _save(directory: Path, policy: ExitPolicy) -> Path:
    saved = directory / "policy.json"
    config = ModelSource.open(str(directory / "model")).config_sha256
    PolicyFile("a model", config, "a test", policy).write(saved)
    return saved


def splitting_tau(model: PreTrainedModel, tokens: list[int]) -> list[float]:
    """At each layer about half of the text's tokens pass the gate, none of them nearly."""
    with torch.inference_mode():
        hidden = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    taus = []
    for layer in range(LAYERS):
        scores = torch.cosine_similarity(*hidden[layer : layer + 2], dim=-1)[0].sort().values
        middle = scores[len(scores) // 3 : -len(scores) // 3]
        widest = int(middle.diff().argmax())
        taus.append(float(middle[widest : widest + 2].mean()))
    return taus


def as_json(tau: Any) -> Any:
    """tau as a request over JSON gives it, which has no infinity."""
    if isinstance(tau, list | tuple):
        return [as_json(value) for value in tau]
    return str(tau) if np.isinf(tau) else tau


def request(
    prompt: list[int], tau: Any = None, pinned: tuple[int, ...] | None = None, new: int = NEW_TOKENS
) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if tau is not None:
        extra["river_tau"] = as_json(tau)
    if pinned is not None:
        extra["river_pinned"] = list(pinned)
    return {"prompt": prompt, "max_tokens": new, "extra_args": extra}


def forced(layer: int) -> list[float]:
    """tau by which every token exits after that layer."""
    return [-np.inf if index == layer else np.inf for index in range(1, LAYERS + 1)]
