"""An engine step by step: what generation, servers, evaluation and tests run it through."""

from collections.abc import Generator

import numpy as np

from river_trt.backends.base import GivesHiddenStates, Session, SessionOptions, Step
from river_trt.cache_rows import cache_rows
from river_trt.config import GenerationConfig
from river_trt.decoding import Decoder
from river_trt.errors import RiverError
from river_trt.manifest import Manifest
from river_trt.one_caller import OneCaller
from river_trt.prefixes import Prefixes
from river_trt.prompts import PromptReader
from river_trt.results import TokenEvent
from river_trt.row import Row
from river_trt.spec import ExitPolicy, GateScope


class Stepper:
    """The DecodingLoop over a Session; from `Engine.stepper`. One caller at a time.

    Attributes: session; caller, who holds the cache; num_layers; max_batch_size; max_seq_len, the
    cache slots of a row.
    """

    def __init__(
        self,
        session: Session,
        manifest: Manifest,
        options: SessionOptions,
        prefill_chunk: int = 512,
        batch_invariant: bool = False,
        kept_rows: int = 0,
    ) -> None:
        """prefill_chunk, batch_invariant: see decoding.Decoder. kept_rows: the last ones of the
        cache, which servers keep requests in that are done.
        """
        self.session = session
        self.caller = OneCaller()
        self.num_layers = manifest.model.shape.num_layers
        self.max_batch_size = options.max_batch_size
        self.max_seq_len = options.cache_length
        self._backend = manifest.backend.name
        self._prompts = PromptReader(manifest.model.shape.vocab_size, self.max_seq_len)
        self._prefill_chunk = prefill_chunk
        self._batch_invariant = batch_invariant
        self._kept_rows = kept_rows

    def check(self, config: GenerationConfig) -> None:
        """Nothing that a config may ask for is out of reach here."""

    def run(self, rows: list[Row]) -> Generator[TokenEvent, None, None]:
        """Rows in batches of max_batch_size, each to its end."""
        with self.caller:
            for start in range(0, len(rows), self.max_batch_size):
                yield from self.decoder().run(rows[start : start + self.max_batch_size])

    def decoder(self) -> Decoder:
        """A new one, over a cache that nobody uses; hold `caller` while it runs."""
        return Decoder(self.session, self._prefill_chunk, batch_invariant=self._batch_invariant)

    def serving_decoder(self, *, reuses_river: bool) -> Decoder:
        """The same, which keeps rows that are done; reuses_river: see prefixes.Prefixes."""
        first = cache_rows(self.max_batch_size, self._batch_invariant)
        prefixes = Prefixes(self.session, first, self._kept_rows, reuses_river=reuses_river)
        return Decoder(
            self.session,
            self._prefill_chunk,
            batch_invariant=self._batch_invariant,
            prefixes=prefixes if self._kept_rows else None,
        )

    def forward(
        self,
        token_ids: np.ndarray,  # [batch, seq] integers
        policy: ExitPolicy,
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
        rows = np.stack([self._prompts.read(row) for row in ids])
        if len(policy.tau) != self.num_layers:
            raise RiverError(f"the policy has {len(policy.tau)} layers, not {self.num_layers}")
        scope = GateScope.named(gate_scope)
        indices = np.arange(rows.shape[1]) if logit_indices is None else np.asarray(logit_indices)
        if indices.dtype.kind not in "iu" or not np.isin(indices, np.arange(rows.shape[1])).all():
            raise RiverError(f"logit_indices must be positions in 0..{rows.shape[1] - 1}")
        past = np.full(len(rows), past_length, np.int32)
        with self.caller:
            step = Step(rows, first_row, past, indices.astype(np.int64), policy, scope)
            out = self.session.step(step)
            return out.logits.copy(), out.exit_layer.copy()

    def read_cache(
        self,
        row: int,  # 0..max_batch_size - 1
        length: int,  # the first `length` slots
    ) -> np.ndarray:
        """A copy of a row's K and V, float32 [L, 2, num_kv_heads, length, head_dim].

        K is stored with its rotary angle. What the row holds is of the last `forward` over it.
        Raises RiverError for a row or a length that the cache has not.
        """
        if not (0 <= row < self.max_batch_size and 0 <= length <= self.max_seq_len):
            raise RiverError(
                f"the cache has rows 0..{self.max_batch_size - 1} of {self.max_seq_len} slots; "
                f"got row {row}, length {length}"
            )
        with self.caller:
            return self.session.read_row(row, length)

    def hidden_states(
        self,
        token_ids: np.ndarray,  # [seq] integers
        last: int | None = None,  # 0 .. L - 1, which None is
    ) -> np.ndarray:
        """h_0 .. h_last of a text at full depth, float32 [last + 1, seq, hidden].

        Raises what `check_hidden_states` does, and RiverError for ids or a layer that do not fit.
        """
        self.check_hidden_states()
        last = self.num_layers - 1 if last is None else last
        if not 0 <= last < self.num_layers:
            raise RiverError(f"hidden states are h_0 .. h_{self.num_layers - 1}, got h_{last}")
        assert isinstance(self.session, GivesHiddenStates)
        with self.caller:
            return self.session.hidden_states(self._prompts.read(token_ids), last)

    def check_hidden_states(self) -> None:
        """RiverError where the backend's engines do not show them."""
        if not isinstance(self.session, GivesHiddenStates):
            raise RiverError(
                f"engines of the backend {self._backend} do not show the hidden "
                "states that calibration and reports read; give an onnxruntime engine of the same "
                "model, or --model (a policy saved there with --save FILE is stored in this engine "
                "by `river-trt calibrate ENGINE --apply FILE`)"
            )
