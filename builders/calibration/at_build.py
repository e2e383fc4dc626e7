"""What `build` does beside its engine: a policy with a budget, and what it costs on other text.

layers, as they are quantised --> FirstOrder: what each costs on the river
the engine that was built     --> Ladder: pins and gates for the budgets --> held-out pieces
"""

import ctypes
import platform
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers
from torch import Tensor

import river_trt
from builders.build import PolicyKind
from builders.calibration.budget import Budget
from builders.calibration.draft import promise
from builders.calibration.first_order import FirstOrder
from builders.calibration.ladder import Choice, Ladder, Mask
from builders.calibration.named import Policies, ladder_choices, measured
from builders.calibration.paper import PaperSearch
from builders.calibration.search import within_budget
from builders.calibration.texts import PIECE_TOKENS, SKIP, Texts
from builders.calibration_text import read_calibration
from builders.decoder import DecoderLayer, RiverDecoder
from builders.evaluation.subject import ROWS, DecoderSubject, EngineSubject, Subject
from builders.memory import available_memory
from builders.quantisers.base import RiverWeight
from builders.river_bank import format_of
from builders.source import ModelSource
from builders.weights import LayerWeights
from river_trt.errors import RiverWarning
from river_trt.manifest import DraftInfo, Manifest
from river_trt.progress import Progress
from river_trt.text import TOKENIZER_FILE, Tokenizer

READABLE = ("onnxruntime",)  # backends whose engines show hidden states
MEMORY_MARGIN = 1.25  # of the float32 model, for its logits and the texts


class BuildWatch:
    """A build's layers as they go by, and the calibration of what they make."""

    def __init__(self, source: ModelSource, directory: Path, backend: str) -> None:
        """directory: what the build fills; it holds the tokenizer before the first layer comes."""
        self._source, self._directory = source, directory
        self._first_order: FirstOrder | None = None
        # An engine that cannot be looked into has the torch reference in its place.
        self._rivers: list[dict[str, RiverWeight]] | None = None if backend in READABLE else []

    def token_ids(self) -> Tensor | None:
        """Text for the layers, [texts, tokens]; None for a model that reads none."""
        tokenizer = self._directory / TOKENIZER_FILE
        if not tokenizer.is_file():
            return None
        return read_calibration(tokenizer, self._source.config, None).token_ids

    def layer(
        self,
        weights: LayerWeights,
        river: dict[str, RiverWeight],
        before: Tensor,  # [texts, tokens, hidden]
        after: Tensor,  # what the backbone makes of it
    ) -> None:
        """The next layer is quantised."""
        if not (self._directory / TOKENIZER_FILE).is_file():
            return
        if self._first_order is None:
            self._first_order = FirstOrder(self._source, before.shape[1])
        self._first_order.watch(weights, river, before, after)
        if self._rivers is not None:
            self._rivers.append(river)

    def calibrate(
        self, manifest: Manifest, kind: PolicyKind, quality: float, progress: Progress
    ) -> Policies | None:
        """None where it cannot be done: without a tokenizer, or (with a warning) without memory."""
        if self._first_order is None:
            return None
        if self._rivers is not None and not self._fits():
            return None
        costs = self._first_order.costs(progress)
        self._first_order = None  # hidden states of a whole model
        return_memory()
        subject = self._subject(manifest)
        texts = Texts.read(subject.tokenizer, subject.max_seq_len)
        draft = None
        if kind == "paper":
            paper = PaperSearch(subject, texts.search, SKIP, progress)
            one = within_budget(paper.at, Budget("max-kl", quality), subject.num_layers)
            choices = {
                "": (quality, Choice(one.policy, one.backbone_layers, one.kl, one.description))
            }
        else:
            ladder = Ladder(subject, costs, texts.search, texts.kinds, SKIP, progress)
            draft = draft_policy(ladder.masks, manifest)
            choices = ladder_choices(ladder, quality)
        return measured(
            subject, choices, quality, texts.report, SKIP, "built-in text", progress, draft
        )

    def _fits(self) -> bool:
        needed = int(4 * MEMORY_MARGIN * self._source.num_parameters)
        available = available_memory()
        if available is None or needed <= available:
            return True
        warnings.warn(
            f"calibrating needs about {needed / 1e9:.1f} GB of memory and {available / 1e9:.1f} GB "
            "are free, so the policy is the uncalibrated start; run `river-trt calibrate --model` "
            "on a larger machine and store what it saves with `calibrate --apply`",
            RiverWarning,
            stacklevel=2,
        )
        return False

    def _subject(self, manifest: Manifest) -> Subject:
        length = min(PIECE_TOKENS, manifest.model.shape.max_seq_len)
        if self._rivers is None:
            engine = river_trt.load(
                self._directory, max_batch_size=ROWS, max_seq_len=length, verify=False
            )
            return EngineSubject(engine)
        config = self._source.config
        decoder = RiverDecoder(config, format_of(self._rivers[0]), length)
        decoder.assign_shared(self._source.shared())
        for index, (layer, river) in enumerate(zip(decoder.layers, self._rivers, strict=True)):
            assert isinstance(layer, DecoderLayer)
            layer.assign(self._source.layer(index), river)
        tokenizer = tokenizers.Tokenizer.from_file(str(self._directory / TOKENIZER_FILE))
        return DecoderSubject(
            decoder.eval(),
            Tokenizer(tokenizer),
            self._source.checkpoint.name,
            self._source.config_sha256,
            "",
            length,
            manifest.policy.to_policy(),
        )


def draft_policy(masks: Sequence[Mask], manifest: Manifest) -> DraftInfo | None:
    """The mask that drafts best, if the share of tokens that agree were accepted; None: none pays.

    Teacher forced: drafts read their own tokens, so what `calibrate --draft` measures is a little
    less.
    """
    promises = []
    for mask in masks:
        pinned = tuple((np.flatnonzero(mask.pinned[1:]) + 2).tolist())  # layer 1 needs no pin
        promises.append(promise(pinned, mask.agreement, manifest))
    best = max(promises, key=lambda found: found.speedup)
    if not best.length:
        return None
    return DraftInfo(
        best.pinned,
        f"at build, on built-in text: {best.acceptance:.1%} of tokens agree, {best.length} a draft",
    )


def return_memory() -> None:
    """Give the system back what glibc keeps of the layers that went by: the engine comes next."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
