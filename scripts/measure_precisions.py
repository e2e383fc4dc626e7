"""What engines of other precisions lose to the first one at full depth: KL, and greedy texts.

KL(first || other) of next tokens, teacher forced, over pieces of the texts that calibration uses.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import river_trt
from river_trt.spec import ExitPolicy

TEXTS = Path(__file__).parents[1] / "builders" / "data" / "texts"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("engines", type=Path, nargs="+", metavar="ENGINE", help="reference first")
    parser.add_argument("--tokens", type=int, default=400, help="of a piece")
    parser.add_argument("--new-tokens", type=int, default=48, help="of a greedy text")
    args = parser.parse_args(argv)

    pieces = [file.read_text() for file in sorted(TEXTS.glob("*.txt"))]
    found = {path: run(path, pieces, args.tokens, args.new_tokens) for path in args.engines}
    (reference, wanted), *others = found.values()
    table = Table("engine", "KL", "99th percentile", "same first token", "greedy tokens in common")
    for path, (log_p, texts) in zip(args.engines[1:], others, strict=True):
        kl = np.concatenate(
            [(np.exp(p) * (p - q)).sum(-1) for p, q in zip(reference, log_p, strict=True)]
        )
        same = np.concatenate(
            [p.argmax(-1) == q.argmax(-1) for p, q in zip(reference, log_p, strict=True)]
        )
        common = [common_length(a, b) for a, b in zip(wanted, texts, strict=True)]
        table.add_row(
            path.name,
            f"{kl.mean():.2e}",
            f"{np.quantile(kl, 0.99):.1e}",
            f"{same.mean():.4f}",
            f"{' '.join(map(str, common))} of {args.new_tokens}",
        )
    Console(width=120).print(table)
    positions = sum(len(p) for p in reference)
    print(f"{positions} positions of {len(pieces)} texts, against {args.engines[0].name}")
    return 0


def run(
    path: Path, pieces: Sequence[str], tokens: int, new_tokens: int
) -> tuple[list[np.ndarray], list[list[int]]]:
    """Log probabilities of each piece, and the text that follows its first 60 tokens."""
    engine = river_trt.load(path, max_batch_size=1, max_seq_len=1024)
    full_depth = ExitPolicy.full_depth(engine.num_layers)
    config = river_trt.GenerationConfig(
        mode="full", max_new_tokens=new_tokens, temperature=0, ignore_eos=True
    )
    log_p, texts = [], []
    for piece in pieces:
        ids = engine.tokenizer.encode(piece[: 20 * tokens])[:tokens]
        logits = engine.forward(np.array([ids]), full_depth)[0][0].astype(np.float32)
        logits -= logits.max(-1, keepdims=True)
        log_p.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
        texts.append(list(engine.generate([ids[:60]], config)[0].token_ids))
    return log_p, texts


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    same = (i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    return next(same, len(a))


if __name__ == "__main__":
    raise SystemExit(main())
