"""`river-trt evaluate --text`: open what is evaluated, score it, write the report."""

from dataclasses import dataclass
from pathlib import Path

import river_trt
from builders.evaluation.results import PolicyResult
from builders.evaluation.scores import Progress
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


def evaluate_text(run: TextRun, progress: Progress) -> list[PolicyResult]:
    """Backbone, all river, the own policy and each tau. Raises RiverError for bad input."""
    options = TextOptions(run.text, run.pieces, run.piece_tokens, run.skip, run.seed)
    read_documents(run.text)  # a bad file is refused before a model is loaded
    if run.report is not None:
        if not run.report.parent.is_dir():
            raise RiverError(f"cannot write {run.report}: {run.report.parent} is not a directory")
        if run.report.is_dir():
            raise RiverError(f"cannot write {run.report}: it is a directory")
    subject = open_subject(run)
    policies = compared_policies(subject, run.taus, run.pinned)
    pieces = read_pieces(subject, options)
    results = evaluate_policies(subject, pieces, policies, options, progress)
    if run.report is not None:
        from builders.report.collect import collect
        from builders.report.page import write_report

        data = collect(subject, pieces, results, options, progress, (run.command,))
        write_report(data, run.report)
    return results


def open_subject(run: TextRun) -> Subject:
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
        )
        return EngineSubject(engine, run.engine)
    assert run.model is not None, "the command line asks for one of them"
    changes = {} if run.quantiser is None else {"quantiser": run.quantiser}
    return DecoderSubject.open(run.model, load_recipe(RECIPE, changes), run.piece_tokens)
