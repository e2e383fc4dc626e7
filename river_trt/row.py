"""One prompt on its way: its tokens so far, and what the next one depends on."""

import dataclasses
from dataclasses import dataclass, field

import numpy as np

from river_trt.config import GenerationConfig
from river_trt.edits import Edits
from river_trt.logprobs import token_logprobs
from river_trt.lossless.draft import Draft
from river_trt.results import FinishReason, GenerationResult, TokenEvent, TokenLogprobs
from river_trt.sampling import Sampling, check_best, sample
from river_trt.spec import ExitPolicy, GateScope, backbone_layers
from river_trt.text import TextStream

PolicyKey = tuple[bytes, bytes, int]
StepKey = tuple[PolicyKey, str]


@dataclass(slots=True, eq=False)
class Row:
    """Its results depend on nothing but its own fields and the logits it is given."""

    index: int  # of the prompt in the call
    prompt: np.ndarray  # [prompt_tokens] int64
    config: GenerationConfig
    sampling: Sampling
    policy: ExitPolicy
    generator: np.random.Generator
    edits: Edits
    text: TextStream | None
    eos_token_ids: frozenset[int]
    cache_length: int
    draft: Draft | None = None  # of the mode "lossless"
    step_key: StepKey = field(init=False)  # rows of equal keys may share a step
    policy_key: PolicyKey = field(init=False)
    backbone_slots: int = field(init=False)  # before the first one that a River step writes
    reused_tokens: int = 0  # of the prompt, whose K and V were there
    depths: list[int] = field(init=False)  # layers on the backbone, by exit layer - 1
    past_length: int = 0  # slots filled in its cache row
    token_ids: list[int] = field(default_factory=list)
    exit_layers: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)  # where they are asked for
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)  # as far as scored
    finish_reason: FinishReason | None = None
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.config.prompt_logprobs is not None:
            self.prompt_logprobs.append(TokenLogprobs(int(self.prompt[0]), None, ()))
        pinned = self.policy.pinned
        self.depths = backbone_layers(np.arange(1, len(pinned) + 1), pinned).tolist()
        self.policy_key = _key(self.policy)
        self.backbone_slots = len(self.prompt)
        if np.isposinf(self.policy.tau).all():
            self.backbone_slots = self.cache_length
        if self.draft is None:
            self.step_key = (self.policy_key, self.config.gate_scope)
        else:
            self.step_key = (_key(self.draft.policy), self.config.mode)

    @property
    def scope(self) -> GateScope:
        return GateScope.named(self.config.gate_scope)

    @property
    def filled(self) -> int:
        """Slots of its cache row that hold something of use: what the river drafted too."""
        draft = self.draft
        if draft is None or draft.repeated:  # no step has written a repeated text
            return self.past_length
        return self.past_length + len(draft.token_ids)

    @property
    def prefilled(self) -> bool:
        return self.past_length >= len(self.prompt)

    @property
    def is_scoring(self) -> bool:
        """Its prompt's log-probabilities are wanted and not all there."""
        wanted = 0 if self.config.prompt_logprobs is None else len(self.prompt)
        return len(self.prompt_logprobs) < wanted

    def accept(self, logits: np.ndarray, exit_layer: int) -> str:
        """Sample the next token and decide whether it is the last; returns the new text.

        logits: [vocab] float32. Raises EngineError for logits that are no numbers.
        """
        token = sample(logits, self.sampling, self.generator, self.edits.after())
        return self.push(token, exit_layer, logprobs=self.logprobs_of(logits, token))

    def logprobs_of(
        self,
        logits: np.ndarray,  # [vocab] float32
        token: int,
    ) -> TokenLogprobs | None:
        """Of its next token; None where the row wants none."""
        if self.config.logprobs is None:
            return None
        return token_logprobs(logits[None], [token], self.config.logprobs)[0]

    def accept_choice(
        self,
        token: int,
        best: np.floating,
        exit_layer: int,
        logprobs: TokenLogprobs | None,
    ) -> str:
        """Take the token that a session chose; returns the new text.

        best: the best logit. Raises EngineError as `accept`.
        """
        check_best(best)
        return self.push(token, exit_layer, logprobs=logprobs)

    def push(
        self,
        token: int,
        exit_layer: int,
        is_last: bool = False,
        logprobs: TokenLogprobs | None = None,
    ) -> str:
        """Take the next token, wherever it was sampled; returns the new text.

        is_last: no more will come, whatever this one is. EngineError where its json_schema cannot
        be followed further.
        """
        self.edits.push(token)
        self.token_ids.append(token)
        self.exit_layers.append(int(exit_layer))
        if logprobs is not None:
            self.logprobs.append(logprobs)
        text = ""
        if token in self.eos_token_ids and not self.config.ignore_eos:
            self.finish_reason = "eos"
        elif token in self.config.stop_token_ids:
            self.finish_reason = "stop"
        else:
            text = self.text.push(token) if self.text else ""
            self.finish_reason = self._end() or ("length" if is_last else None)
        if self.finish_reason and self.text:
            text += self.text.flush()
        return text

    def _end(self) -> FinishReason | None:
        if self.text and self.text.stopped:
            return "stop"
        cache_full = self.past_length == self.cache_length  # no slot for the new token
        if cache_full or len(self.token_ids) == self.config.max_new_tokens:
            return "length"
        return None

    def event(self, index: int, text: str) -> TokenEvent:
        """The event of token `index`, which brought this text; the last one's has the result."""
        exit_layer = self.exit_layers[index]
        if not 1 <= exit_layer <= len(self.depths):
            backbone_layers(np.array([exit_layer]), self.policy.pinned)  # says what is wrong
        depth = self.depths[exit_layer - 1]
        logprobs = None if self.config.logprobs is None else self.logprobs[index]
        event = TokenEvent(
            self.index, self.token_ids[index], text, exit_layer, depth, logprobs=logprobs
        )
        if self.finish_reason is None or index < len(self.token_ids) - 1:
            return event
        exit_layers = np.array(self.exit_layers, np.int32)
        result = GenerationResult(
            text=None if self.text is None else self.text.text,
            token_ids=self.token_ids,
            finish_reason=self.finish_reason,
            exit_layers=exit_layers,
            backbone_layers=backbone_layers(exit_layers, self.policy.pinned).astype(np.int32),
            prompt_tokens=len(self.prompt),
            prefill_seconds=self.prefill_seconds,
            decode_seconds=self.decode_seconds,
            speculation=None if self.draft is None else self.draft.speculation(),
            reused_tokens=self.reused_tokens,
            logprobs=None if self.config.logprobs is None else self.logprobs,
            prompt_logprobs=(None if self.config.prompt_logprobs is None else self.prompt_logprobs),
        )
        return dataclasses.replace(event, finish_reason=self.finish_reason, result=result)


def _key(policy: ExitPolicy) -> PolicyKey:
    directions = 0 if policy.directions is None else id(policy.directions)
    return policy.tau.tobytes(), policy.pinned.tobytes(), directions
