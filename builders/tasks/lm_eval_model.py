"""A River engine as a language model of lm-evaluation-harness (EleutherAI), under one policy."""

from collections.abc import Callable
from typing import Any

import numpy as np
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from river_trt.config import GenerationConfig, resolve_policy
from river_trt.engine import Engine
from river_trt.errors import RiverError
from river_trt.spec import backbone_layers
from river_trt.text import ChatOptions

CHUNK = 256  # tokens of a pass: bounds the logits in memory
DEFAULT_NEW_TOKENS = 256
# What a task may ask of generation; the names are GenerationConfig's too.
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens")


class RiverLM(TemplateLM):  # type: ignore[misc]  # the harness has no types
    """Scores and generates under a config's tau and pins.

    Every token of a scored text runs under the policy, context included: a multiple choice whose
    context were prefilled at full depth would measure the backbone. Texts longer than the cache
    lose their beginning, as in the harness's own models.
    """

    def __init__(
        self, engine: Engine, config: GenerationConfig, report: Callable[[int, int], None]
    ) -> None:
        super().__init__()
        assert engine.tokenizer is not None
        self.engine, self.config, self.report = engine, config, report
        self.river_tokenizer = engine.tokenizer
        self.policy = resolve_policy(config, engine.policy_of(config), engine.num_layers)
        self.depths: list[np.ndarray] = []  # backbone layers of every token that ran by the policy

    @property
    def eot_token_id(self) -> int:
        ids = self.engine.manifest.model.eos_token_ids
        if not ids:
            raise RiverError("the model names no end-of-sequence token, which lm-eval needs")
        return ids[0]

    @property
    def prefix_token_id(self) -> int:
        bos = self.engine.manifest.model.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        return self.engine.manifest.model.name

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        if add_special_tokens is None:  # a chat template has written its own
            bos = self.engine.manifest.model.bos_token_id
            name = None if bos is None else self.river_tokenizer.raw.id_to_token(bos)
            add_special_tokens = name is None or not string.startswith(name)
        return self.river_tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def chat_template(self, chat_template: bool | str = False) -> str:
        return "the engine's"

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        # A task's beginning of an answer is gone on with.
        options = ChatOptions(continue_final_message=not add_generation_prompt)
        return self.river_tokenizer.chat_text(chat_history, options)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        found = []
        for done, (_, context, continuation) in enumerate(requests, 1):
            found.append(self._score(context, continuation))
            self.report(done, len(requests))
        return found

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        found = []
        for done, request in enumerate(requests, 1):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0], add_special_tokens=False),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.engine.max_seq_len - 1,
                context_len=1,
            )
            pairs = map(make_disjoint_window, windows)
            found.append(sum(self._score(list(context), list(ids))[0] for context, ids in pairs))
            self.report(done, len(requests))
        return found

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        texts = []
        for done, request in enumerate(requests, 1):
            context, arguments = request.args
            config = self._generation(dict(arguments))
            room = self.engine.max_seq_len - config.max_new_tokens
            if room < 1:
                raise RiverError(
                    f"the task wants {config.max_new_tokens} new tokens, but the cache has "
                    f"{self.engine.max_seq_len} slots; raise --max-seq-len"
                )
            prompt = self.tok_encode(context)[-room:] or [self.prefix_token_id]
            (result,) = self.engine.generate([prompt], config)
            self.depths.append(result.backbone_layers[1:])
            texts.append(result.text or "")
            self.report(done, len(requests))
        return texts

    def mean_layers(self) -> float | None:
        depths = np.concatenate(self.depths) if self.depths else np.zeros(0)
        return float(depths.mean()) if len(depths) else None

    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        """Log-likelihood of the continuation in nats, and whether greedy decoding gives it."""
        # The last token predicts nothing that is asked for.
        ids = np.array([*context, *continuation][:-1][-self.engine.max_seq_len :], np.int64)
        wanted = np.array(continuation[-len(ids) :], np.int64)
        first = len(ids) - len(wanted)  # the position whose logits are of wanted[0]
        nats, greedy = 0.0, True
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            asked = np.arange(max(0, first - start), len(chunk))
            indices = asked if len(asked) else np.zeros(1, np.int64)
            logits, exit_layer = self.engine.stepper.forward(
                chunk[None], self.policy, indices, past_length=start
            )
            self.depths.append(backbone_layers(exit_layer[0], self.policy.pinned))
            if len(asked):
                next_ids = wanted[start + asked - first]
                nats += float(_log_softmax(logits[0], next_ids).sum())
                greedy &= bool((logits[0].argmax(-1) == next_ids).all())
        return nats, greedy

    def _generation(self, arguments: dict[str, Any]) -> GenerationConfig:
        """The task's arguments as a GenerationConfig; RiverError for one that has no such thing."""
        until = arguments.pop("until", None) or []
        stop = [until] if isinstance(until, str) else list(until)
        sample = arguments.pop("do_sample", False)
        lengths = [arguments.pop(name) for name in LENGTHS if name in arguments]
        sampling = {name: arguments.pop(name) for name in SAMPLING if name in arguments}
        if arguments:
            raise RiverError(f"the task's generation argument {next(iter(arguments))!r} is unknown")
        if not sample:
            sampling["temperature"] = 0.0
        sampling.setdefault("repetition_penalty", 1.0)  # the publisher's is no part of a task
        eos_text = self.river_tokenizer.raw.id_to_token(self.eot_token_id)
        return GenerationConfig(
            max_new_tokens=int(lengths[0]) if lengths else DEFAULT_NEW_TOKENS,
            stop=[text for text in stop if text and text != eos_text],
            seed=0,
            policy=self.config.policy,
            tau=self.config.tau,
            pinned=self.config.pinned,
            **sampling,
        )


def _log_softmax(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Log-probability of ids [n] by logits [n, vocab], float64."""
    logits = logits.astype(np.float64)
    top = logits.max(-1)
    total = top + np.log(np.exp(logits - top[:, None]).sum(-1))
    chosen: np.ndarray = logits[np.arange(len(ids)), ids] - total
    return chosen
