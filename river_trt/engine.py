"""Load an engine directory and generate with it."""

import threading
from collections.abc import Generator, Iterator, Sequence, Sized
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from river_trt.backends import open_session
from river_trt.backends.base import DecodingLoop, Session, SessionOptions, Step
from river_trt.cache_rows import cache_rows
from river_trt.config import GenerationConfig, resolve_draft_policy, resolve_policy
from river_trt.decoding import Decoder
from river_trt.engine_dir import read_directions, read_engine_dir
from river_trt.errors import PromptError, RiverError
from river_trt.lossless.draft import Draft
from river_trt.lossless.gap import GapAcceptance
from river_trt.lossless.length import DraftLength, step_cost
from river_trt.manifest import Manifest
from river_trt.results import GenerationResult, TokenEvent
from river_trt.row import Row
from river_trt.sampling import row_generator
from river_trt.spec import ExitPolicy, GateScope
from river_trt.text import ChatOptions, TextStream, Tokenizer

if TYPE_CHECKING:
    from river_trt.serving.scheduler import Scheduler
    from river_trt.serving.server import Server

DEFAULT_MAX_QUEUE = 64
# A token may stand for more than its own characters where a tokenizer folds or drops some.
LEAST_TOKEN_CHARACTERS = 16

Prompt = str | Sequence[int] | np.ndarray
Message = dict[str, Any]  # {"role": ..., "content": ...}, as chat templates take them


def load(
    path: str | Path,
    *,
    max_batch_size: int = 8,
    max_seq_len: int | None = None,
    threads: int | None = None,
    verify: bool = True,
    prefill_chunk: int = 512,
    batch_invariant: bool = False,
) -> "Engine":
    """Load the engine directory `path`.

    max_batch_size: rows decoded together; more prompts are taken in successive batches.
    max_seq_len: cache slots of a row, prompt and generated tokens together; by default the
        model's own limit or 4096, whichever is less. The cache's memory is reserved here, once,
        and used as it fills.
    threads: CPU threads of the backend, by default its own choice.
    verify: compare every file with its SHA-256 in the manifest.
    prefill_chunk: prompt tokens run per step, which bounds the memory of a long prefill and, in a
        server, how long it holds up the others.
    batch_invariant: what a prompt gives does not depend, to the last bit, on the prompts it shares
        a batch with. Where the kernels need it, a lone row then steps as one of two, which costs
        time (docs/serving.md).
    Raises EngineError when the directory is damaged, foreign, or needs another version; RiverError
    for an option out of range.
    """
    directory = Path(path)
    manifest = read_engine_dir(directory, verify=verify)
    limit = manifest.model.shape.max_seq_len
    cache_length = min(limit, 4096) if max_seq_len is None else max_seq_len
    if not 1 <= cache_length <= limit:
        raise RiverError(f"max_seq_len must be in 1..{limit} for this model, got {cache_length}")
    for name, value in (
        ("max_batch_size", max_batch_size),
        ("threads", 1 if threads is None else threads),
        ("prefill_chunk", prefill_chunk),
    ):
        if value < 1:
            raise RiverError(f"{name} must be at least 1, got {value}")
    tokenizer = Tokenizer.from_engine_dir(directory, manifest)
    policy = manifest.policy.to_policy(read_directions(directory, manifest))
    twins = batch_invariant and not manifest.rows_are_independent
    spare_rows = cache_rows(max_batch_size, twins) - max_batch_size
    options = SessionOptions(max_batch_size, cache_length, threads, spare_rows)
    session = open_session(directory, manifest, options)
    return Engine(manifest, policy, tokenizer, session, options, prefill_chunk, twins)


class Engine:
    """A loaded River engine, from `river_trt.load`. One generation runs at a time.

    Attributes: manifest; policy, the engine's own ExitPolicy; draft_policy, what drafts in
    lossless mode; tokenizer, None when the engine
    takes token ids only; num_layers; max_batch_size; max_seq_len, the cache slots of a row.
    """

    def __init__(
        self,
        manifest: Manifest,
        policy: ExitPolicy,
        tokenizer: Tokenizer | None,
        session: Session | DecodingLoop,
        options: SessionOptions,
        prefill_chunk: int = 512,
        batch_invariant: bool = False,
    ) -> None:
        if batch_invariant and isinstance(session, DecodingLoop):
            raise RiverError(
                f"batch_invariant is not offered by {manifest.backend.name}, which forms batches "
                "by itself"
            )
        self.manifest = manifest
        self.policy = policy
        self.draft_policy = manifest.draft.to_policy(manifest.model.shape.num_layers)
        self.tokenizer = tokenizer
        self.num_layers = manifest.model.shape.num_layers
        self.max_batch_size = options.max_batch_size
        self.max_seq_len = options.cache_length
        self._opened = session
        self._prefill_chunk = prefill_chunk
        self._batch_invariant = batch_invariant
        self._gap_acceptance = GapAcceptance()  # learns from all that is drafted here
        self._lock = threading.Lock()

    def generate(
        self, prompts: Prompt | Sequence[Prompt], config: GenerationConfig | None = None
    ) -> list[GenerationResult]:
        """Generate for one prompt or several; one result a prompt, in order.

        prompts: strings or sequences of token ids, of any lengths; each is prefilled alone and
        then decoded together with the others. Raises RiverError for a prompt that is empty,
        longer than the cache, or holds ids outside the vocabulary, and for a config that does not
        fit the model.
        """
        results: dict[int, GenerationResult] = {}
        for event in self.stream(prompts, config):
            if event.result is not None:
                results[event.row] = event.result
        return [results[index] for index in sorted(results)]

    def stream(
        self, prompts: Prompt | Sequence[Prompt], config: GenerationConfig | None = None
    ) -> Generator[TokenEvent, None, None]:
        """Like `generate`, yielding a TokenEvent for each token as it comes.

        Rows of a batch take turns; a row's last event holds its GenerationResult. Prompts and
        config are checked at once, not at the first event. Closing the iterator stops the work.
        """
        config = config or GenerationConfig()
        rows = [
            self._row(index, prompt, config) for index, prompt in enumerate(_as_prompts(prompts))
        ]
        return self._run(rows)

    def serve(
        self, *, max_batch_size: int | None = None, max_queue: int = DEFAULT_MAX_QUEUE
    ) -> "Server":
        """An asyncio server over this engine, with continuous batching: `async with` it.

        max_batch_size: requests that decode together, by default as many as the engine takes.
        max_queue: requests that may wait beyond those; more are rejected. Raises RiverError for a
        value out of range. From `async with` to its end the engine does nothing else; entering
        raises RiverError when it is busy.
        """
        from river_trt.serving.server import Server  # asyncio, for those who serve

        options = self._serving_options(max_batch_size, max_queue)
        return Server(lambda: self._open_scheduler(*options))

    def scheduler(
        self, *, max_batch_size: int | None = None, max_queue: int = DEFAULT_MAX_QUEUE
    ) -> "Scheduler":
        """What `serve` runs on, for threads of one's own: see serving/scheduler.py."""
        return self._open_scheduler(*self._serving_options(max_batch_size, max_queue))

    def _serving_options(self, max_batch_size: int | None, max_queue: int) -> tuple[int, int]:
        """Both, checked."""
        size = self.max_batch_size if max_batch_size is None else max_batch_size
        if not 1 <= size <= self.max_batch_size:
            raise RiverError(
                f"max_batch_size must be in 1..{self.max_batch_size}, got {size}; "
                "load the engine with a larger one"
            )
        if max_queue < 0:
            raise RiverError(f"max_queue must be at least 0, got {max_queue}")
        _ = self._session  # a loop of its own has a scheduler of its own
        return size, max_queue

    def _open_scheduler(self, size: int, max_queue: int) -> "Scheduler":
        from river_trt.serving.scheduler import Scheduler

        self._acquire()
        return Scheduler(self._decoder(), self._row, self._lock.release, size, max_queue)

    def chat_prompt(
        self, messages: Sequence[Message], options: ChatOptions | None = None
    ) -> list[int]:
        """Token ids of a conversation, by default ready for the assistant's turn.

        messages: dicts with "role" and "content". Raises RiverError when the engine has no
        tokenizer or chat template, or the template refuses the messages.
        """
        if self.tokenizer is None:
            raise RiverError("a chat needs a tokenizer, and this engine takes token ids only")
        text = self.tokenizer.chat_text(messages, options or ChatOptions())
        self._check_length(text, self.tokenizer)
        return self.tokenizer.encode(text, add_special_tokens=False)  # the template writes its own

    def forward(
        self,
        token_ids: np.ndarray,  # [batch, seq] integers
        policy: ExitPolicy | None = None,  # None: the engine's own
        logit_indices: np.ndarray | None = None,  # [num_logits] positions; None: all
        gate_scope: str = "token",  # or "sequence", "batch"
        first_row: int = 0,  # the cache row of the first sequence
        past_length: int = 0,  # tokens that each row holds already, from a pass before
    ) -> tuple[np.ndarray, np.ndarray]:
        """One parallel pass, for evaluation and tests.

        Returns logits float32 [batch, num_logits, vocab] and exit_layer int32 [batch, seq].
        With gate_scope "token" this equals decoding the same tokens one by one, and a long text
        may be given in several passes. Raises RiverError for rows beyond max_batch_size, more
        tokens than max_seq_len, or a policy of another number of layers.
        """
        ids = np.asarray(token_ids)
        most = self.max_batch_size - first_row
        if first_row < 0 or ids.ndim != 2 or not ids.size or ids.shape[0] > most:
            raise RiverError(
                f"forward takes token ids [1..{most}, seq] from cache row {first_row} of "
                f"{self.max_batch_size} on, got {list(ids.shape)}"
            )
        if past_length < 0 or past_length + ids.shape[1] > self.max_seq_len:
            raise RiverError(
                f"{ids.shape[1]} tokens after {past_length} do not fit the cache of "
                f"{self.max_seq_len} slots"
            )
        rows = np.stack([self._token_ids(row) for row in ids])
        policy = policy or self.policy
        if len(policy.tau) != self.num_layers:
            raise RiverError(f"the policy has {len(policy.tau)} layers, not {self.num_layers}")
        scope = GateScope.named(gate_scope)
        indices = np.arange(rows.shape[1]) if logit_indices is None else np.asarray(logit_indices)
        if indices.dtype.kind not in "iu" or not np.isin(indices, np.arange(rows.shape[1])).all():
            raise RiverError(f"logit_indices must be positions in 0..{rows.shape[1] - 1}")
        past = np.full(len(rows), past_length, np.int32)
        with self._exclusive():
            step = Step(rows, first_row, past, indices.astype(np.int64), policy, scope)
            out = self._session.step(step)
            return out.logits.copy(), out.exit_layer.copy()

    def read_cache(
        self,
        row: int,  # 0..max_batch_size - 1
        length: int,  # the first `length` slots
    ) -> np.ndarray:
        """A copy of a row's K and V, float32 [L, 2, num_kv_heads, length, head_dim].

        K is stored with its rotary angle. What the row holds is of the last `forward` over it.
        """
        if not (0 <= row < self.max_batch_size and 0 <= length <= self.max_seq_len):
            raise RiverError(
                f"the cache has rows 0..{self.max_batch_size - 1} of {self.max_seq_len} slots; "
                f"got row {row}, length {length}"
            )
        with self._exclusive():
            return self._session.read_row(row, length)

    @property
    def _session(self) -> Session:
        """What steps one at a time need; RiverError where the backend has a loop of its own."""
        if isinstance(self._opened, DecodingLoop):
            raise RiverError(
                f"the backend {self.manifest.backend.name} runs its own decoding loop: it can "
                "generate and stream, but not score texts, read its cache or serve from here"
            )
        return self._opened

    def _row(self, index: int, prompt: Prompt, config: GenerationConfig) -> Row:
        if config.stop and self.tokenizer is None:
            raise RiverError("stop strings need a tokenizer, and this engine takes token ids only")
        if isinstance(self._opened, DecodingLoop):
            self._opened.check(config)
        policy = resolve_policy(config, self.policy, self.num_layers)
        ids = self._token_ids(prompt)
        seen = None
        if config.repetition_penalty != 1.0:
            seen = np.zeros(self.manifest.model.shape.vocab_size, np.bool_)
            seen[ids] = True
        text = TextStream(self.tokenizer, config.stop, ids.tolist()) if self.tokenizer else None
        return Row(
            index,
            ids,
            config,
            policy,
            row_generator(config.seed, index),
            seen,
            text,
            eos_token_ids=frozenset(self.manifest.model.eos_token_ids),
            cache_length=self.max_seq_len,
            draft=self._draft(config) if config.mode == "lossless" else None,
        )

    def _draft(self, config: GenerationConfig) -> Draft:
        policy = resolve_draft_policy(config, self.draft_policy, self.num_layers)
        # Layer 1 runs the backbone with or without a pin.
        layers = 1 + int(policy.pinned[1:].sum())
        cost = step_cost(self.manifest.bytes_per_layer, layers, self.num_layers)
        greedy = config.temperature == 0.0
        return Draft(
            policy,
            DraftLength(cost, config.max_draft_tokens),
            self._gap_acceptance if greedy else None,
            adapts=greedy or config.seed is None,
        )

    def _token_ids(self, prompt: Prompt) -> np.ndarray:
        """The prompt as int64 [prompt_tokens], checked against the vocabulary and the cache."""
        if isinstance(prompt, str):
            if not prompt:
                raise PromptError("the prompt is empty; give at least one character")
            if self.tokenizer is None:
                raise PromptError(
                    "this engine has no tokenizer and takes token ids only; "
                    "give lists of ids in place of strings"
                )
            self._check_length(prompt, self.tokenizer)
            prompt = self.tokenizer.encode(prompt)
        elif isinstance(prompt, Sized) and len(prompt) > self.max_seq_len:
            raise self._too_long(len(prompt))
        try:
            ids = np.asarray(prompt)
        except (ValueError, TypeError, OverflowError):  # a ragged list, objects of any kind
            ids = np.zeros((1, 1))
        if ids.size == 0:
            raise PromptError("the prompt is empty; give at least one token")
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise PromptError(f"a prompt is a string or a list of token ids, got {prompt!r:.60}")
        vocab_size = self.manifest.model.shape.vocab_size
        if ids.min() < 0 or ids.max() >= vocab_size:
            bad = ids[(ids < 0) | (ids >= vocab_size)][0]
            raise PromptError(f"token id {bad} is outside the vocabulary 0..{vocab_size - 1}")
        if len(ids) > self.max_seq_len:
            raise self._too_long(len(ids))
        return ids.astype(np.int64)

    def _check_length(self, text: str, tokenizer: Tokenizer) -> None:
        """Before a text is tokenised, which for megabytes takes seconds."""
        longest = max(tokenizer.longest_token, LEAST_TOKEN_CHARACTERS)
        most = self.max_seq_len * longest
        if len(text) > most:
            raise PromptError(
                f"the prompt has {len(text)} characters, and one of more than {most} is not "
                f"tokenised: the cache has {self.max_seq_len} slots, and no token is longer than "
                f"{longest} characters"
            )

    def _too_long(self, tokens: int) -> PromptError:
        return PromptError(
            f"the prompt has {tokens} tokens but the cache has {self.max_seq_len} slots; "
            "shorten it, or load the engine with a larger max_seq_len"
        )

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        self._acquire()
        try:
            yield
        finally:
            self._lock.release()

    def _acquire(self) -> None:
        """The cache serves one caller: a second one fails at once instead of mixing texts."""
        if not self._lock.acquire(blocking=False):
            raise RiverError(
                "the engine is busy with another generation; finish or close that stream first"
            )

    def _decoder(self) -> Decoder:
        return Decoder(self._session, self._prefill_chunk, batch_invariant=self._batch_invariant)

    def _run(self, rows: list[Row]) -> Generator[TokenEvent, None, None]:
        with self._exclusive():
            if isinstance(self._opened, DecodingLoop):
                yield from self._opened.run(rows)  # it queues what does not fit
                return
            for start in range(0, len(rows), self.max_batch_size):
                yield from self._decoder().run(rows[start : start + self.max_batch_size])


def _as_prompts(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """One prompt or several: a string or a flat list of ids is one."""
    if isinstance(prompts, str):
        return [prompts]
    if not isinstance(prompts, Sequence | np.ndarray):
        raise RiverError(f"prompts are strings or lists of token ids, got {prompts!r:.60}")
    items = list(prompts)
    if not items:
        raise RiverError("the prompt is empty; give at least one token")
    if isinstance(items[0], Integral):
        return [items]
    return items
