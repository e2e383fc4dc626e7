"""How near to the oracle other gates come: held out, at equal depth, without running them.

    .venv/bin/python scripts/research/gates.py ENGINE FILE [FILE ...] [--pins 10] [--layer 4]

Tokens either leave after one layer, and then only the pinned layers run the backbone, or stay at
full depth. What is left of the KL is what leaving costs those who leave: that of the static mask,
which every token is measured under. A gate is fitted to four fifths of the pieces and judged on the
other.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import river_trt
from builders.calibration.candidates import most_sensitive
from builders.calibration.directions import RIDGE, fit_direction
from builders.calibration.material import sensitivity
from builders.evaluation.metrics import cosine
from builders.evaluation.policies import pinned_only
from builders.evaluation.scores import Reference
from builders.evaluation.subject import ROWS, EngineSubject
from builders.evaluation.texts import cut_pieces, read_documents
from river_trt.spec import ExitPolicy

TOKENS, SKIP, FOLDS, RESAMPLES = 192, 16, 5, 2000
RANK, NEWTON_STEPS, DECAY = 48, 8, 10.0  # of the logistic gate


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Of each piece's scored positions, [pieces, positions, ...]."""

    before: np.ndarray  # h_(d-1)
    after: np.ndarray  # h_d
    previous: np.ndarray  # h_d of the position before
    entropy: np.ndarray  # of the backbone's distribution that chose this token, nats
    river_entropy: np.ndarray  # the same of the mask's
    position: np.ndarray
    cost: np.ndarray  # KL of the mask, nats


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("engine", type=Path)
    parser.add_argument("texts", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--pins", type=int, default=10, help="layers of the mask, layer 1 included")
    parser.add_argument("--layer", type=int, default=4, help="after which tokens leave")
    parser.add_argument(
        "--depth", type=float, nargs="+", default=[13.9, 18.0], help="mean backbone layers"
    )
    parser.add_argument("--pieces", type=int, default=24, help="of a text")
    args = parser.parse_args(argv)
    engine = river_trt.load(args.engine, max_batch_size=ROWS, max_seq_len=TOKENS, threads=1)
    subject = EngineSubject(engine)
    pieces = [
        piece
        for file in args.texts
        for piece in cut_pieces(
            read_documents(file), subject.tokenizer, TOKENS, SKIP, args.pieces, file
        )
        if len(piece) == TOKENS
    ]
    costs = sensitivity(subject, pieces[:: max(1, len(pieces) // 2)][:2], SKIP, lambda *_: None)
    pinned = most_sensitive(costs, args.pins)
    material = measure(subject, pieces, pinned, args.layer)
    leaving = args.layer + int(pinned[args.layer :].sum())
    print(f"{len(pieces)} pieces, {material.cost.size} positions, KL {material.cost.mean():.4f}")
    for depth in args.depth:
        stay = (depth - leaving) / (len(pinned) - leaving)
        print(f"{depth:g} layers: {stay:.1%} of the tokens stay after layer {args.layer}")
        report(compare(material, stay))


def measure(
    subject: EngineSubject, pieces: Sequence[np.ndarray], pinned: np.ndarray, layer: int
) -> Material:
    full, mask = ExitPolicy.full_depth(len(pinned)), pinned_only(pinned)
    found: list[tuple[np.ndarray, ...]] = []
    for ids in pieces:
        scored = slice(SKIP, len(ids) - 1)
        earlier = slice(SKIP - 1, len(ids) - 2)
        h = subject.hidden_states(ids, layer)
        logits, _ = subject.step(0, 0, ids, full)
        river, _ = subject.step(1, 0, ids, mask)
        cost, _, _ = Reference.of(logits[scored]).compare(river[scored], ids[SKIP + 1 :])
        found.append(
            (
                *(h[layer - 1, scored], h[layer, scored], h[layer, earlier]),
                *(entropy(logits[earlier]), entropy(river[earlier])),
                *(np.arange(len(cost)) + SKIP, cost),
            )
        )
    return Material(*(np.stack(column) for column in zip(*found, strict=True)))


def entropy(logits: np.ndarray) -> np.ndarray:
    log_p = torch.from_numpy(logits).log_softmax(-1)
    found: np.ndarray = -torch.linalg.vecdot(log_p.exp(), log_p).numpy()
    return found


# A gate: fitted to some pieces of a material, scores all of it; the highest leave.
GateFit = Callable[[Material, np.ndarray, float], np.ndarray]  # material, pieces, stay


def similarity(material: Material, _: np.ndarray, __: float) -> np.ndarray:
    return cosine(material.after, material.before)


def direction(material: Material, inside: np.ndarray, _: float) -> np.ndarray:
    vector = fit_direction(rows(material.after[inside]), material.cost[inside].ravel())
    return cosine(material.after, vector)


def differences(material: Material, inside: np.ndarray, _: float) -> np.ndarray:
    """Ridge on [h_(d-1); h_d - h_(d-1)], each of unit length."""
    both = np.concatenate([unit(material.before), unit(material.after - material.before)], -1)
    return ridge(both, material, inside, RIDGE)


def two_tokens(material: Material, inside: np.ndarray, _: float) -> np.ndarray:
    """Ridge on this token's h_d and the last one's."""
    both = np.concatenate([unit(material.after), unit(material.previous)], -1)
    return ridge(both, material, inside, RIDGE)


def logistic(material: Material, inside: np.ndarray, stay: float) -> np.ndarray:
    """Whether a token is among the dearest, by Newton's steps on RANK principal components."""
    h = unit(material.after)
    centred = rows(h[inside]) - rows(h[inside]).mean(0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    features = (h - rows(h[inside]).mean(0)) @ vectors[:, -RANK:]
    features /= rows(features[inside]).std(0)
    x = np.concatenate([features, np.ones((*features.shape[:2], 1))], -1).astype(np.float64)
    dear = material.cost[inside].ravel() > np.quantile(material.cost[inside], 1 - stay)
    seen, weights = rows(x[inside]), np.zeros(RANK + 1)
    for _ in range(NEWTON_STEPS):
        p = 1 / (1 + np.exp(-seen @ weights))
        hessian = (seen.T * (p * (1 - p))) @ seen + DECAY * np.eye(RANK + 1)
        weights += np.linalg.solve(hessian, seen.T @ (dear - p) - DECAY * weights)
    found: np.ndarray = -(x @ weights)
    return found


def with_features(*names: str) -> GateFit:
    """The direction's score and what costs nothing, joined by a regression on both."""

    def fit(material: Material, inside: np.ndarray, stay: float) -> np.ndarray:
        # Scores of the fit's own pieces would look better than those of others: halves in turn.
        score = np.empty(material.cost.shape)
        halves = np.arange(len(inside)) % 2
        for half in (0, 1):
            score[halves == half] = direction(material, inside & (halves != half), stay)[
                halves == half
            ]
        columns = [score]
        if "previous exit" in names:
            last = np.roll(score, 1, axis=1)
            last[:, 0] = score.mean()
            columns.append((last > np.quantile(score[inside], stay)).astype(float))
        columns += [getattr(material, name) for name in names if name != "previous exit"]
        x = np.stack([(c - c[inside].mean()) / c[inside].std() for c in columns], -1)
        return ridge(x, material, inside, 1e-6)

    return fit


def oracle(material: Material, _: np.ndarray, __: float) -> np.ndarray:
    return -material.cost


GATES: dict[str, GateFit] = {
    "similarity": similarity,
    "direction": direction,
    "direction on the state before and the difference": differences,
    "direction on this token's and the last one's state": two_tokens,
    "logistic, rank 48": logistic,
    "direction and the last token's exit": with_features("previous exit"),
    "direction and the backbone's last entropy": with_features("entropy"),
    "direction and the river's last entropy": with_features("river_entropy"),
    "direction, exit, river's entropy, position": with_features(
        "previous exit", "river_entropy", "position"
    ),
    "oracle": oracle,
}


def compare(material: Material, stay: float) -> dict[str, np.ndarray]:
    """KL that each gate leaves, of each piece: [pieces] nats."""
    folds = np.arange(len(material.cost)) % FOLDS
    left = {}
    for name, fit in GATES.items():
        kept = np.empty(material.cost.shape, bool)
        for fold in range(FOLDS):
            judged = folds == fold
            scores = fit(material, ~judged, stay)[judged]
            # As many stay by every gate: its threshold is the judged pieces' own.
            kept[judged] = scores <= np.quantile(scores, stay)
        left[name] = np.where(kept, 0, material.cost).mean(1)
    return left


def report(left: dict[str, np.ndarray]) -> None:
    """With 95 % intervals over pieces, of the KL and of its difference from the direction's."""
    draws = np.random.default_rng(0).integers(
        0, len(left["oracle"]), (RESAMPLES, len(left["oracle"]))
    )
    print("| gate | KL left | less than the direction |\n|---|---|---|")
    for name, kl in left.items():
        less = left["direction"] - kl
        low, high = np.quantile(kl[draws].mean(1), (0.025, 0.975))
        least, most = np.quantile(less[draws].mean(1), (0.025, 0.975))
        print(f"| {name} | {kl.mean():.4f} ({low:.4f}-{high:.4f}) | "
              f"{less.mean():+.4f} ({least:+.4f} to {most:+.4f}) |")  # fmt: skip


def rows(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])


def unit(values: np.ndarray) -> np.ndarray:
    length: np.ndarray = np.linalg.norm(values, axis=-1, keepdims=True).clip(1e-30)
    found: np.ndarray = values / length
    return found


def ridge(x: np.ndarray, material: Material, inside: np.ndarray, penalty: float) -> np.ndarray:
    """The negated root of the cost, as these features foretell it."""
    seen = rows(x[inside]).astype(np.float64)
    mean = seen.mean(0)
    cost = np.sqrt(material.cost[inside].ravel())
    gram = (seen - mean).T @ (seen - mean)
    gram[np.diag_indices_from(gram)] += penalty * gram.trace() / len(gram)
    weights = np.linalg.solve(gram, (seen - mean).T @ (cost - cost.mean()))
    found: np.ndarray = -((x - mean) @ weights)
    return found


if __name__ == "__main__":
    main()
