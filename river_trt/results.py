"""What a generation returns."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

FinishReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Of a token at its place: natural logarithms of the model's own probabilities.

    logprob: None for a prompt's first token, of which nothing is known.
    top: the best tokens of that place and theirs, the likeliest first; as many as were asked for.
    """

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Speculation:
    """How the mode "lossless" went: a round drafts some tokens, or none, and verifies them.

    drafted, accepted: int32 [rounds]; tokens of each, accepted <= drafted. A round gives its
        accepted tokens and one more, unless the text ends before.
    draft_seconds, verify_seconds: wall time of the steps that this row took part in.
    """

    drafted: np.ndarray
    accepted: np.ndarray
    draft_seconds: float
    verify_seconds: float

    @property
    def tokens_per_round(self) -> float:
        return 1 + float(self.accepted.mean()) if len(self.accepted) else 1.0

    @property
    def acceptance(self) -> float | None:
        """Of the drafted tokens; None where nothing was drafted."""
        drafted = int(self.drafted.sum())
        return int(self.accepted.sum()) / drafted if drafted else None


@dataclass(frozen=True, slots=True, eq=False)
class GenerationResult:
    """One prompt's generation.

    text: the generated text without special tokens, cut before a stop string; bytes of an
        unfinished UTF-8 character at the end are left out. None when the engine has no tokenizer.
    token_ids: every generated token, an end-of-sequence or stop token included.
    finish_reason: "eos" end-of-sequence token, "stop" stop string or token id, "length"
        max_new_tokens reached or cache full.
    exit_layers, backbone_layers: int32 [len(token_ids)]; the layer (1..L) where the step that
        produced the token left the backbone, and how many layers ran the backbone bank in it.
        The first token's step is the end of the prefill.
    prompt_tokens: length of the prompt in tokens.
    prefill_seconds: wall time of this prompt's prefill and its first token.
    decode_seconds: wall time of the decode steps that this row took part in (shared with the
        other rows of its batch; the caller's time between streamed events is not counted).
    speculation: in the mode "lossless", whose exit_layers are those of the verification: L.
    reused_tokens: of the prompt, whose K and V a server had kept (river_trt/prefixes.py).
    logprobs, prompt_logprobs: of each token, where GenerationConfig asks for them.
    """

    text: str | None
    token_ids: list[int]
    finish_reason: FinishReason
    exit_layers: np.ndarray
    backbone_layers: np.ndarray
    prompt_tokens: int
    prefill_seconds: float
    decode_seconds: float
    speculation: Speculation | None = None
    reused_tokens: int = 0
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens a second, of those that were read here."""
        return (self.prompt_tokens - self.reused_tokens) / self.prefill_seconds


@dataclass(frozen=True, slots=True, eq=False)
class TokenEvent:
    """One generated token of a stream.

    row: index of the prompt in the call. text: the text that became certain with this token (may
    be empty: half a character, or a possible stop string, is held back). exit_layer: 1..L.
    finish_reason and result are set on a row's last event only.
    """

    row: int
    token_id: int
    text: str
    exit_layer: int
    backbone_layers: int
    finish_reason: FinishReason | None = None
    result: GenerationResult | None = None
    logprobs: TokenLogprobs | None = None
