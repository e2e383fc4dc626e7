"""Counts and times of a scheduler."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServingMetrics:
    """What happened since the scheduler was made; counts only grow, times are sums in seconds.

    running, waiting: requests right now. rejected: refused for the admission limit. invalid:
    refused for what they ask. failed: ended by an error of the engine. internal_errors: ended by a
    fault of ours before they ran, or when they were answered. queue_seconds: from submission to the
    start of the prefill, of `admitted` requests. first_token_seconds: from submission to the first
    token, of `started` requests. latency_seconds: from submission to the last token, of `completed`
    requests. reused_tokens: of prompts, whose K and V were kept. decode_tokens, backbone_layers:
    tokens of decode steps (all but each request's first), and the layers that ran the backbone for
    them. prefill_tokens, prefill_seconds: of the steps that read prompts. decode_steps: each of
    rows of equal policy; in lossless mode it drafts or verifies. lossless_rounds: verifications of
    a row. draft_seconds, verify_seconds: of the steps that drafted, and that verified.
    """

    running: int = 0
    waiting: int = 0
    admitted: int = 0
    started: int = 0
    completed: int = 0
    cancelled: int = 0
    rejected: int = 0
    invalid: int = 0
    failed: int = 0
    internal_errors: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    generated_tokens: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    backbone_layers: int = 0
    decode_steps: int = 0
    lossless_rounds: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    prefill_seconds: float = 0.0
    draft_seconds: float = 0.0
    verify_seconds: float = 0.0
    queue_seconds: float = 0.0
    first_token_seconds: float = 0.0
    latency_seconds: float = 0.0

    @property
    def mean_backbone_layers(self) -> float:
        return self.backbone_layers / max(1, self.decode_tokens)

    @property
    def mean_queue_seconds(self) -> float:
        return self.queue_seconds / max(1, self.admitted)

    @property
    def mean_first_token_seconds(self) -> float:
        return self.first_token_seconds / max(1, self.started)

    @property
    def mean_latency_seconds(self) -> float:
        return self.latency_seconds / max(1, self.completed)

    @property
    def mean_batch_size(self) -> float:
        return self.decode_tokens / max(1, self.decode_steps)

    @property
    def draft_acceptance(self) -> float:
        return self.accepted_tokens / max(1, self.drafted_tokens)
