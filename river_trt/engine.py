"""Load an engine directory and generate with it."""

from collections.abc import Generator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from river_trt.backends import open_session
from river_trt.backends.base import DecodingLoop, SessionOptions
from river_trt.backends.device import gpu_index
from river_trt.cache_rows import cache_rows
from river_trt.config import GenerationConfig, resolve_draft_policy, resolve_policy
from river_trt.edits import Edits
from river_trt.engine_dir import read_directions, read_policies
from river_trt.engine_files import loading
from river_trt.errors import RiverError
from river_trt.grammar import Grammars
from river_trt.lossless.draft import Draft
from river_trt.lossless.gap import GapAcceptance
from river_trt.lossless.length import DraftLength, step_cost
from river_trt.lossless.repeats import Repeats
from river_trt.manifest import Manifest
from river_trt.progress import Progress, silent
from river_trt.prompts import Prompt, PromptReader, as_prompts
from river_trt.results import GenerationResult, TokenEvent
from river_trt.row import Row
from river_trt.sampling import resolve_sampling, row_generator
from river_trt.spec import ExitPolicy
from river_trt.stepping import Stepper
from river_trt.text import ChatOptions, TextStream, Tokenizer

if TYPE_CHECKING:
    from river_trt.serving.scheduler import Scheduler
    from river_trt.serving.server import Server

DEFAULT_MAX_QUEUE = 64

Message = Mapping[str, Any]  # {"role": ..., "content": ...}, as chat templates take them


def load(
    path: str | Path,
    *,
    max_batch_size: int = 8,
    max_seq_len: int | None = None,
    threads: int | None = None,
    verify: bool = True,
    prefill_chunk: int = 512,
    batch_invariant: bool = False,
    kept_rows: int = 0,
    device: str | None = None,
    policy: str | None = None,
    progress: Progress = silent,
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
    kept_rows: cache rows, beside those of max_batch_size, in which a server keeps requests that are
        done, so that prompts which begin alike are not read again (docs/serving.md).
    device: "cuda:1" is the second GPU; by default the first one, or the CPU for an engine of a CPU.
    policy: name of the engine's policy that calls have which name none, in place of its default.
    progress: called while the kernels are compiled, as the first load on a machine may have to.
    Raises EngineError when the directory is damaged, foreign, or needs another version; RiverError
    for an option out of range, or a policy that the engine has not.
    """
    directory = Path(path)
    with loading(directory, verify) as manifest:
        shape = manifest.model.shape
        limit = shape.max_seq_len
        cache_length = shape.default_cache_length if max_seq_len is None else max_seq_len
        if not 1 <= cache_length <= limit:
            raise RiverError(
                f"max_seq_len must be in 1..{limit} for this model, got {cache_length}"
            )
        for name, value in (
            ("max_batch_size", max_batch_size),
            ("threads", 1 if threads is None else threads),
            ("prefill_chunk", prefill_chunk),
        ):
            if value < 1:
                raise RiverError(f"{name} must be at least 1, got {value}")
        if kept_rows < 0:
            raise RiverError(f"kept_rows must be at least 0, got {kept_rows}")
        tokenizer = Tokenizer.from_engine_dir(directory, manifest)
        named = read_policies(directory, manifest)
        if policy is None:
            own = manifest.policy.to_policy(read_directions(directory, manifest))
        else:
            own = _named(named, policy)
        twins = batch_invariant and not manifest.rows_are_independent
        spare_rows = cache_rows(max_batch_size, twins) - max_batch_size + kept_rows
        gpu = gpu_index(device, manifest.backend.name, manifest.backend.target)
        options = SessionOptions(max_batch_size, cache_length, threads, spare_rows, gpu, progress)
        opened = open_session(directory, manifest, options)
        if isinstance(opened, DecodingLoop):
            if batch_invariant:
                raise RiverError(
                    f"batch_invariant is not offered by {manifest.backend.name}, which forms "
                    "batches by itself"
                )
            return Engine(manifest, own, tokenizer, opened, options, named)
        stepper = Stepper(
            *(opened, manifest, options, prefill_chunk), batch_invariant=twins, kept_rows=kept_rows
        )
        return Engine(manifest, own, tokenizer, stepper, options, named)


def _named(policies: Mapping[str, ExitPolicy], name: str) -> ExitPolicy:
    if name not in policies:
        raise RiverError(f"policy {name!r:.80} is not one of this engine's: {', '.join(policies)}")
    return policies[name]


class Engine:
    """A loaded River engine, from `river_trt.load`. One generation runs at a time.

    Attributes: manifest; policy, the ExitPolicy of calls that name none; policies, those that they
    may name; draft_policy, what drafts in
    lossless mode; tokenizer, None when the engine
    takes token ids only; prompts, which reads them; num_layers; max_batch_size; max_seq_len, the
    cache slots of a row; gap_acceptance, what lossless mode has learned.
    """

    def __init__(
        self,
        manifest: Manifest,
        policy: ExitPolicy,
        tokenizer: Tokenizer | None,
        loop: DecodingLoop,
        options: SessionOptions,
        policies: Mapping[str, ExitPolicy] | None = None,
    ) -> None:
        self.manifest = manifest
        self.policy = policy
        self.policies = dict(policies or {})
        self.draft_policy = manifest.draft.to_policy(manifest.model.shape.num_layers)
        self.tokenizer = tokenizer
        self.num_layers = manifest.model.shape.num_layers
        self.max_batch_size = options.max_batch_size
        self.max_seq_len = options.cache_length
        self._loop = loop
        self.prompts = PromptReader(manifest.model.shape.vocab_size, self.max_seq_len, tokenizer)
        self.gap_acceptance = GapAcceptance()  # learns from all that is drafted here

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
            self.make_row(index, prompt, config) for index, prompt in enumerate(as_prompts(prompts))
        ]
        return self._loop.run(rows)

    def serve(
        self,
        *,
        max_batch_size: int | None = None,
        max_queue: int = DEFAULT_MAX_QUEUE,
        reuses_river: bool = False,
    ) -> "Server":
        """An asyncio server over this engine, with continuous batching: `async with` it.

        max_batch_size: requests that decode together, by default as many as the engine takes.
        max_queue: requests that may wait beyond those; more are rejected. reuses_river: of kept
        rows (see `load`) also what River steps wrote, for requests of the same policy, whose texts
        may then differ from those of a whole prefill. Raises RiverError for a value out of range.
        From `async with` to its end the engine does nothing else; entering raises RiverError when
        it is busy.
        """
        from river_trt.serving.server import Server  # asyncio, for those who serve

        options = self._serving_options(max_batch_size, max_queue)
        return Server(lambda: self._open_scheduler(*options, reuses_river))

    def scheduler(
        self,
        *,
        max_batch_size: int | None = None,
        max_queue: int = DEFAULT_MAX_QUEUE,
        reuses_river: bool = False,
    ) -> "Scheduler":
        """What `serve` runs on, for threads of one's own: see serving/scheduler.py."""
        options = self._serving_options(max_batch_size, max_queue)
        return self._open_scheduler(*options, reuses_river)

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
        _ = self.stepper  # a loop of its own has a scheduler of its own
        return size, max_queue

    def _open_scheduler(self, size: int, max_queue: int, reuses_river: bool) -> "Scheduler":
        from river_trt.serving.scheduler import Scheduler

        stepper = self.stepper
        stepper.caller.acquire()
        decoder = stepper.serving_decoder(reuses_river=reuses_river)
        return Scheduler(decoder, self.make_row, stepper.caller.release, size, max_queue)

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
        self.prompts.check_length(text)
        return self.tokenizer.encode(text, add_special_tokens=False)  # the template writes its own

    def forward(
        self, token_ids: np.ndarray, policy: ExitPolicy | None = None, **options: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """`stepper.forward` of ids [batch, seq], by the engine's own policy where none is given."""
        return self.stepper.forward(token_ids, policy or self.policy, **options)

    def read_cache(self, row: int, length: int) -> np.ndarray:
        """`stepper.read_cache`."""
        return self.stepper.read_cache(row, length)

    @property
    def can_serve(self) -> bool:
        """Whether `serve`, `scheduler` and `stepper` are to be had: not with a loop of its own."""
        return isinstance(self._loop, Stepper)

    @property
    def stepper(self) -> Stepper:
        """What runs the engine step by step: for evaluation, servers and tests.

        Raises RiverError where the backend has a decoding loop of its own.
        """
        if not isinstance(self._loop, Stepper):
            raise RiverError(
                f"the backend {self.manifest.backend.name} runs its own decoding loop: it can "
                "generate and stream, but not score texts, read its cache or serve from here"
            )
        return self._loop

    def policy_of(self, config: GenerationConfig) -> ExitPolicy:
        """The policy that a config names; RiverError for a name that the engine has not."""
        return self.policy if config.policy is None else _named(self.policies, config.policy)

    @cached_property
    def grammars(self) -> Grammars:
        """What holds texts to a JSON schema; takes a part of a second when first asked for.

        Raises RiverError without a tokenizer, MissingDependencyError without llguidance.
        """
        if self.tokenizer is None:
            raise RiverError("json_schema needs a tokenizer, and this engine takes token ids only")
        model = self.manifest.model
        return Grammars(self.tokenizer, model.shape.vocab_size, model.eos_token_ids)

    def make_row(self, index: int, prompt: Prompt, config: GenerationConfig) -> Row:
        """A prompt ready to run, the `index`-th of its call.

        Raises RiverError for a prompt or a config that this engine does not take.
        """
        if config.stop and self.tokenizer is None:
            raise RiverError("stop strings need a tokenizer, and this engine takes token ids only")
        self._loop.check(config)
        policy = resolve_policy(config, self.policy_of(config), self.num_layers)
        ids = self.prompts.read(prompt)
        sampling = resolve_sampling(config, self.manifest.text.sampling)
        vocab_size = self.manifest.model.shape.vocab_size
        for token in dict(config.logit_bias):
            if token >= vocab_size:
                raise RiverError(
                    f"logit_bias names token {token}, outside the vocabulary 0..{vocab_size - 1}"
                )
        schema = config.json_schema
        grammar = self.grammars.start(schema) if isinstance(schema, str) else None
        edits = Edits(config, sampling, ids, vocab_size, grammar)
        text = TextStream(self.tokenizer, config.stop, ids.tolist()) if self.tokenizer else None
        return Row(
            index,
            ids,
            config,
            sampling,
            policy,
            row_generator(config.seed, index),
            edits,
            text,
            eos_token_ids=frozenset(self.manifest.model.eos_token_ids),
            cache_length=self.max_seq_len,
            draft=self._draft(config, sampling.is_greedy) if config.mode == "lossless" else None,
        )

    def _draft(self, config: GenerationConfig, greedy: bool) -> Draft:
        policy = resolve_draft_policy(config, self.draft_policy, self.num_layers)
        # Layer 1 runs the backbone with or without a pin.
        layers = 1 + int(policy.pinned[1:].sum())
        cost = step_cost(self.manifest.bytes_per_layer, layers, self.num_layers)
        return Draft(
            policy,
            DraftLength(cost, config.max_draft_tokens),
            self.gap_acceptance if greedy else None,
            adapts=greedy or config.seed is None,
            repeats=Repeats.up_to(config.max_draft_tokens) if greedy else None,
        )
