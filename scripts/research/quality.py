"""What quantisers, policies and rounded activations cost against the backbone, on text."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

import river_trt
from builders.build import BuildOptions, build, initial_policy
from builders.calibration_text import spread_pieces
from builders.evaluation import Quality, evaluate
from builders.recipes import Recipe, load_recipe
from builders.reference import load_reference, teacher_forced
from builders.source import ModelSource
from river_trt.errors import RiverError
from river_trt.spec import ExitPolicy


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    part: str
    name: str
    quality: Quality | None = None
    note: str = ""


def describe(recipe: Recipe) -> str:
    kind = "symmetric" if recipe.symmetric else "asymmetric"
    return f"{recipe.quantiser}, group {recipe.group_size}, {kind}"


def all_river(num_layers: int) -> ExitPolicy:
    return ExitPolicy.uniform(num_layers, -np.inf)


def quantiser_rows(
    source: ModelSource,
    tokenizer_file: Path,
    recipes: Sequence[Recipe],
    texts: np.ndarray,
    skip: int,
) -> Iterator[Row]:
    for recipe in recipes:
        name = describe(recipe)
        try:
            decoder = load_reference(source, tokenizer_file, recipe, texts.shape[1])
        except RiverError as refusal:  # hqq has no symmetric form
            yield Row("all river", name, note=f"not offered: {refusal}")
            continue
        policies = [all_river(source.config.num_layers)]
        (quality,) = evaluate(partial(teacher_forced, decoder), texts, policies, skip)
        yield Row("all river", name, quality)


def policy_rows(
    source: ModelSource,
    tokenizer_file: Path,
    recipe: Recipe,
    texts: np.ndarray,
    taus: Sequence[float],
    skip: int,
) -> Iterator[Row]:
    num_layers = source.config.num_layers
    decoder = load_reference(source, tokenizer_file, recipe, texts.shape[1])
    policies = {
        "plain model (tau inf)": ExitPolicy.full_depth(num_layers),
        "engine's own": initial_policy(num_layers, None, None),
    }
    for tau, pinned in itertools.product((*taus, -np.inf), ((), None)):
        name = f"tau {tau:g}, {'no pins' if pinned == () else 'last layer pinned'}"
        policies[name] = initial_policy(num_layers, tau, pinned)
    run = partial(teacher_forced, decoder)
    found = evaluate(run, texts, list(policies.values()), skip)
    for name, quality in zip(policies, found, strict=True):
        yield Row(f"policies ({describe(recipe)})", name, quality)


def activation_rows(model: str, work: Path, texts: np.ndarray, skip: int) -> Iterator[Row]:
    engines: dict[str, river_trt.Engine] = {}
    for activation in ("float32", "int8"):
        out = work / f"river-{activation}"
        if not out.exists():
            build(
                BuildOptions(model, out, river_activation=activation, exact=True, calibrate=False)
            )
        engines[activation] = river_trt.load(out, max_batch_size=1, max_seq_len=texts.shape[1])
    river = all_river(engines["int8"].num_layers)
    part = "all river on ONNX Runtime"
    for activation, engine in engines.items():
        (quality,) = evaluate(engine.forward, texts, [river], skip)
        yield Row(part, f"{activation} against the backbone", quality)
    (quality,) = evaluate(
        engines["int8"].forward,
        texts,
        [river],
        skip,
        reference=lambda ids: engines["float32"].forward(ids, river)[0],
    )
    yield Row(part, "int8 against float32", quality)


def print_rows(rows: Sequence[Row]) -> None:
    console = Console()
    for part, group in itertools.groupby(rows, key=lambda row: row.part):
        table = Table("", "KL, nats", "top-1", "perplexity", "backbone", title=part)
        notes = []
        for row in group:
            if row.quality is None:
                notes.append(f"{row.name}: {row.note}")
                continue
            q = row.quality
            numbers = (f"{q.kl:.4f}", f"{q.agreement:.1%}", f"{q.perplexity:.2f}")
            table.add_row(row.name, *numbers, f"{q.backbone_layers:.2f}")
        console.print(table)
        for note in notes:
            console.print(note, soft_wrap=True)


def measure(
    model: str,
    text: Path,
    recipes: Sequence[Recipe],
    taus: Sequence[float],
    texts: int,  # pieces, spread over the text
    tokens: int,  # of a piece
    skip: int,  # first positions of a piece, not scored
    work: Path,  # keeps the engines
) -> list[Row]:
    """The rows of every part. RiverError where the model has no tokenizer or the text is short."""
    source = ModelSource.open(model)
    if not source.checkpoint.write_tokenizer(work):
        raise RiverError(f"{model} has no tokenizer, so it cannot read {text}")
    tokenizer_file = work / "tokenizer.json"
    ids = Tokenizer.from_file(str(tokenizer_file)).encode(text.read_text("utf-8")).ids
    if len(ids) < tokens:
        raise RiverError(f"{text} has {len(ids)} tokens; {tokens} are needed")
    pieces = spread_pieces(ids, texts, tokens).numpy()
    return [
        *quantiser_rows(source, tokenizer_file, recipes, pieces, skip),
        *policy_rows(source, tokenizer_file, load_recipe("cpu", {}), pieces, taus, skip),
        *activation_rows(model, work, pieces, skip),
    ]
