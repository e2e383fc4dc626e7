"""What the river costs in quality: each quantiser, each tau, and 8-bit activations, on real text.

Teacher forced, so every position of a text is scored in one pass, exactly as decoding token by
token would. KL and agreement are against the backbone's own next-token distribution.
"""

import argparse
import dataclasses
import itertools
import json
import tempfile
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

SYMMETRY = {"both": (False, True), "no": (False,), "yes": (True,)}


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
            build(BuildOptions(model, out, river_activation=activation))
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


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text to score")
    parser.add_argument("--texts", type=int, default=6, help="pieces, spread over the text")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a piece")
    parser.add_argument("--skip", type=int, default=32, help="first positions, not scored")
    parser.add_argument("--quantisers", default="rtn,hqq,awq")
    parser.add_argument("--group-sizes", default="64")
    parser.add_argument("--symmetric", choices=SYMMETRY, default="both")
    parser.add_argument("--taus", default="0.95,0.97,0.98")
    parser.add_argument("--work", type=Path, help="keeps the engines for the next time")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)

    recipes = [
        load_recipe("cpu", {"quantiser": name, "group_size": int(size), "symmetric": symmetric})
        for name in args.quantisers.split(",")
        for size in args.group_sizes.split(",")
        for symmetric in SYMMETRY[args.symmetric]
    ]
    taus = [float(tau) for tau in args.taus.split(",")]
    with tempfile.TemporaryDirectory() as temporary:
        work, skip = args.work or Path(temporary), args.skip
        source = ModelSource.open(args.model)
        if not source.checkpoint.write_tokenizer(Path(temporary)):
            raise RiverError(f"{args.model} has no tokenizer, so it cannot read {args.text}")
        tokenizer_file = Path(temporary, "tokenizer.json")
        tokens = Tokenizer.from_file(str(tokenizer_file)).encode(args.text.read_text("utf-8")).ids
        if len(tokens) < args.tokens:
            raise RiverError(f"{args.text} has {len(tokens)} tokens; {args.tokens} are needed")
        texts = spread_pieces(tokens, args.texts, args.tokens).numpy()
        rows = [
            *quantiser_rows(source, tokenizer_file, recipes, texts, skip),
            *policy_rows(source, tokenizer_file, load_recipe("cpu", {}), texts, taus, skip),
            *activation_rows(args.model, work, texts, skip),
        ]
    if args.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        print_rows(rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
