"""Does a budget of KL hold on new text? Of the same kind, 20 and 1,000 times; and of other kinds.

    .venv/bin/python scripts/research/budget.py ENGINE NAME=FILE [NAME=FILE ...] [--budget 0.05]

Each text is cut into pieces, and the engine's own policy is run on them with several thresholds.
Then, without running anything: half of the pieces of a text choose the threshold, by `build`'s
margin, and the other half say what it costs; and what is chosen on one text is tried on the others.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import river_trt
from builders.calibration.ladder import margin
from builders.evaluation.policies import gate_scores
from builders.evaluation.scores import score
from builders.evaluation.subject import ROWS, EngineSubject
from builders.evaluation.texts import cut_pieces, read_documents
from river_trt.spec import ExitPolicy, backbone_layers

Cells = dict[str, np.ndarray]  # text: [pieces, positions, policies]
TOKENS, SKIP, FEW, RESAMPLINGS = 192, 16, 20, 1000
STAY = (0.08, 0.2, 0.35, 0.5, 0.65, 0.8)  # shares of tokens that do not leave


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", type=Path)
    parser.add_argument("texts", nargs="+", metavar="NAME=FILE")
    parser.add_argument("--budget", type=float, default=0.05)
    parser.add_argument("--pieces", type=int, default=24)
    args = parser.parse_args(argv)
    engine = river_trt.load(args.engine, max_batch_size=ROWS, max_seq_len=TOKENS, threads=1)
    subject = EngineSubject(engine)
    texts = dict(text.split("=", 1) for text in args.texts)
    pieces = {
        name: [
            piece
            for piece in cut_pieces(
                read_documents(Path(file)), subject.tokenizer, TOKENS, SKIP, args.pieces, Path(file)
            )
            if len(piece) == TOKENS
        ]
        for name, file in texts.items()
    }
    policies = grid(subject, [piece for some in pieces.values() for piece in some[::4]])
    kl: Cells = {}
    layers: Cells = {}
    for name, some in pieces.items():
        kl[name], layers[name] = measure(subject, some, policies)
        print(f"{name}: {len(some)} pieces, KL and layers at each threshold:", flush=True)
        print(np.round(kl[name].mean((0, 1)), 4), np.round(layers[name].mean((0, 1)), 2))
    resample(kl, layers, args.budget)
    matrix(kl, layers, args.budget)


def grid(subject: EngineSubject, pieces: list[np.ndarray]) -> list[ExitPolicy]:
    """The engine's policy with the thresholds that let each share of STAY stay, of these pieces."""
    own = subject.policy
    (gate,) = np.flatnonzero(np.isfinite(own.tau))
    scores = gate_scores(subject, pieces, own.directions)[gate]
    policies = []
    for share in STAY:
        tau = own.tau.copy()
        tau[gate] = np.quantile(scores, share)
        policies.append(ExitPolicy(tau, own.pinned, own.directions))
    return policies


def measure(
    subject: EngineSubject, pieces: list[np.ndarray], policies: list[ExitPolicy]
) -> tuple[np.ndarray, np.ndarray]:
    """KL and backbone layers of each position by each policy, [pieces, positions, policies]."""
    found = score(subject, pieces, policies, SKIP, lambda *_: None)
    kl = [[piece.kl for piece in of_policy] for of_policy in found]
    layers = [
        [backbone_layers(piece.exit_layer, policy.pinned) for piece in of_policy]
        for of_policy, policy in zip(found, policies, strict=True)
    ]
    return np.moveaxis(np.array(kl), 0, -1), np.moveaxis(np.array(layers), 0, -1)


def share_within(kl: np.ndarray, budget: float) -> float:
    """The least share (a threshold's name) whose mean KL is the budget, between those run."""
    return float(np.interp(-budget, -kl.mean((0, 1)), STAY))


def at(values: np.ndarray, share: float) -> float:
    return float(np.interp(share, STAY, values.mean((0, 1))))


def resample(kl: Cells, layers: Cells, budget: float) -> None:
    random = np.random.default_rng(0)
    for name, found in kl.items():
        for with_margin in (False, True):
            realised, depths, missed = [], [], []
            for _ in range(RESAMPLINGS):
                order = random.permutation(len(found))
                chosen, new = order[: len(found) // 2], order[len(found) // 2 :]
                share = share_within(found[chosen], budget)
                if with_margin:
                    nearest = int(np.argmin(np.abs(np.array(STAY) - share)))
                    one_kind = [name] * len(chosen)
                    divisor = margin(list(found[chosen][..., nearest]), one_kind)
                    share = share_within(found[chosen], budget / divisor)
                realised.append(at(found[new], share))
                depths.append(at(layers[name][new], share))
                missed.append(depths[-1] - at(layers[name][chosen], share))
            kept = np.array(realised) <= budget
            print(
                f"{name}, {'margin' if with_margin else 'no margin'}: within {budget:g} in "
                f"{int(kept[:FEW].sum())} of {FEW}, {kept.mean():.1%} of {RESAMPLINGS}, "
                f"KL {np.mean(realised):.4f} ({min(realised):.4f}-{max(realised):.4f}) at "
                f"{np.mean(depths):.1f} layers, depth missed by {np.abs(missed).mean():.2f} layers "
                f"on average, {np.quantile(np.abs(missed), 0.95):.2f} in one of twenty",
                flush=True,
            )


def matrix(kl: Cells, layers: Cells, budget: float) -> None:
    """Rows: where the threshold was chosen, without a margin; columns: KL and layers elsewhere."""
    print("| chosen on | " + " | ".join(kl) + " |")
    for row in kl:
        share = share_within(kl[row], budget)
        cells = [f"{at(kl[column], share):.4f} at {at(layers[column], share):.1f}" for column in kl]
        print(f"| {row} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
