"""`river-trt evaluate --text`: open what is evaluated, score it, write the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import river_trt
from builders.evaluation.results import PolicyResult
from builders.evaluation.subject import ROWS, DecoderSubject, EngineSubject, Subject
from builders.evaluation.text import (
    Tau,
    TextOptions,
    compared_policies,
    evaluate_policies,
    read_pieces,
)
from builders.evaluation.texts import read_documents
from builders.recipes import load_recipe
from river_trt.engine_dir import read_engine_dir
from river_trt.errors import RiverError
from river_trt.progress import Progress, silent

RECIPE = "cpu"


@dataclass(frozen=True, slots=True)
class TextRun:
    """What a user asks for; an engine or a model, and how the text is scored."""

    engine: Path | None
    model: str | None
    text: Path
    quantiser: str | None = None  # of the model's river; None: the recipe's
    taus: tuple[Tau, ...] = ()
    pinned: tuple[int, ...] | None = None
    pieces: int = 16
    piece_tokens: int = 256
    skip: int = 32
    seed: int = 0
    threads: int | None = None
    verify: bool = True
    report: Path | None = None
    command: str = ""

    @property
    def options(self) -> TextOptions:
        return TextOptions(self.text, self.pieces, self.piece_tokens, self.skip, self.seed)

    def check(self, least_pieces: int = 1) -> TextOptions:
        """The options of the text. What is bad about them is said before a model is loaded."""
        options = self.options
        if self.pieces < least_pieces:
            raise RiverError(
                f"--pieces must be at least {least_pieces} to calibrate, got {self.pieces}"
            )
        read_documents(self.text)
        if self.report is not None:
            folder = self.report.parent
            if not folder.is_dir():
                raise RiverError(f"cannot write {self.report}: {folder} is not a directory")
            if self.report.is_dir():
                raise RiverError(f"cannot write {self.report}: it is a directory")
        return options

    def write_report(
        self,
        subject: Subject,
        pieces: Sequence[np.ndarray],
        results: Sequence[PolicyResult],
        progress: Progress,
    ) -> None:
        """The page about the subject's policy, if one is wanted."""
        if self.report is None:
            return
        from builders.report.collect import collect
        from builders.report.page import write_report

        data = collect(subject, pieces, results, self.options, progress, (self.command,))
        write_report(data, self.report)


def evaluate_text(run: TextRun, progress: Progress) -> list[PolicyResult]:
    """Backbone, all river, the own policy and each tau. Raises RiverError for bad input."""
    options = run.check()
    subject = open_subject(run, progress)
    if run.report is not None:
        subject.check_hidden_states()
    policies = compared_policies(subject, run.taus, run.pinned)
    pieces = read_pieces(subject, options)
    results = evaluate_policies(subject, pieces, policies, options, progress)
    run.write_report(subject, pieces, results, progress)
    return results


def open_subject(run: TextRun, progress: Progress = silent) -> Subject:
    if run.engine is not None:
        longest = read_engine_dir(run.engine, verify=False).model.shape.max_seq_len
        if run.piece_tokens > longest:
            raise RiverError(
                f"pieces of {run.piece_tokens} tokens are longer than the model's {longest}"
            )
        engine = river_trt.load(
            run.engine,
            max_batch_size=ROWS,
            max_seq_len=run.piece_tokens,
            threads=run.threads,
            verify=run.verify,
            progress=progress,
        )
        return EngineSubject(engine)
    assert run.model is not None, "the command line asks for one of them"
    changes = {} if run.quantiser is None else {"quantiser": run.quantiser}
    return DecoderSubject.open(run.model, load_recipe(RECIPE, changes), run.piece_tokens)
