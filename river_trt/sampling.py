"""Choose the next token of one row from its logits, in numpy."""

from dataclasses import dataclass, fields

import numpy as np

from river_trt.config import GenerationConfig
from river_trt.errors import EngineError
from river_trt.manifest import SamplingInfo

TINY, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token of a row is chosen: a GenerationConfig's values, all of them known."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Edit:
    """What is done to a row's logits before its next token is chosen, in this order.

    seen: [vocab] bool, tokens under the repetition penalty. added: [vocab] float32, what is added;
    -inf forbids a token.
    """

    seen: np.ndarray | None = None
    added: np.ndarray | None = None


NO_EDIT = Edit()


def resolve_sampling(config: GenerationConfig, publisher: SamplingInfo) -> Sampling:
    """What a caller asks for, else what the model's publisher says, else greedy and off."""
    chosen = {}
    for known in fields(Sampling):
        for source in (config, publisher):
            if (value := getattr(source, known.name)) is not None:
                chosen[known.name] = value
                break
    return Sampling(**chosen)


def row_generator(seed: int | None, index: int) -> np.random.Generator:
    """The random stream of prompt `index`: its own, so the batch it runs in has no say.

    Prompt i of a call with seed s draws what prompt 0 of a call with seed s + i draws.
    """
    return np.random.default_rng(None if seed is None else seed + index)


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """The tokens that may come next, [n], ascending, and their weights, float64 [n].

    The weights are of any sum above 0.
    """

    token_ids: np.ndarray
    weights: np.ndarray

    def draw(self, generator: np.random.Generator) -> int:
        """One token, for exactly one number of the generator."""
        sums = np.cumsum(self.weights)
        drawn = np.searchsorted(sums, generator.random() * sums[-1], side="right")
        last = np.searchsorted(sums, sums[-1])  # with a weight, should the product be rounded up
        return int(self.token_ids[min(drawn, last)])

    def probabilities(
        self,
        token_ids: np.ndarray,  # [n], any of the vocabulary
    ) -> np.ndarray:
        """float64, of each of the tokens."""
        places = np.searchsorted(self.token_ids, token_ids).clip(max=len(self.token_ids) - 1)
        found = np.where(self.token_ids[places] == token_ids, self.weights[places], 0.0)
        probabilities: np.ndarray = found / self.weights.sum()
        return probabilities


def sample(
    logits: np.ndarray,  # [vocab] float32, left as it is
    sampling: Sampling,
    generator: np.random.Generator,
    edit: Edit = NO_EDIT,
) -> int:
    """The next token id. Greedy draws nothing from the generator, sampling exactly one number.

    Raises EngineError when the logits hold NaN or infinity.
    """
    choice = distribution(logits, sampling, edit)
    if sampling.is_greedy:
        return int(choice.token_ids[0])
    return choice.draw(generator)


def distribution(
    logits: np.ndarray,  # [vocab] float32, left as it is
    sampling: Sampling,
    edit: Edit = NO_EDIT,
) -> Distribution:
    """What `sample` draws from; filters in the order of transformers: penalty, temperature, k, p,
    min_p. Greedy is the best token alone. Raises EngineError as `sample`.
    """
    logits = edited(logits, sampling, edit)
    best = int(logits.argmax())  # argmax finds a NaN if there is one
    check_best(logits[best])
    if sampling.is_greedy:
        return Distribution(np.array([best]), np.ones(1))
    # The best at 0, so that a tiny temperature sends the others to -inf and overflows nothing.
    with np.errstate(over="ignore"):
        scores = (logits - logits[best]) / np.float32(max(sampling.temperature, TINY))
    candidates = keep_top_k(scores, sampling.top_k)
    candidates = keep_top_p(scores, candidates, sampling.top_p)
    candidates = keep_min_p(scores, candidates, sampling.min_p)
    return Distribution(candidates, np.exp(scores[candidates]).astype(np.float64))


def check_best(logit: np.floating) -> None:
    """EngineError where the best logit is no number, so none is."""
    if not np.isfinite(logit):
        raise EngineError(
            f"the engine returned {logit} as a logit; rebuild it, and check the checkpoint"
        )


def edited(logits: np.ndarray, sampling: Sampling, edit: Edit) -> np.ndarray:
    """The logits [vocab] as the row's past has them; themselves where it changes nothing."""
    if edit.seen is not None:
        logits = penalise(logits, edit.seen, sampling.repetition_penalty)
    if edit.added is not None:
        logits = logits + edit.added
    return logits


def lead(logits: np.ndarray, best: int) -> float:
    """How far the best logit of [vocab] lies above the next one."""
    highest = logits[best]
    logits[best] = -np.inf  # for a moment: a copy would take longer than the search
    second = logits.max()
    logits[best] = highest
    return float(highest - second)


def penalise(logits: np.ndarray, seen: np.ndarray, penalty: float) -> np.ndarray:
    """Repetition penalty (CTRL, arXiv:1909.05858): seen tokens' logits move towards minus.

    logits: [vocab] float32, left as it is; seen: [vocab] bool.
    """
    out = logits.copy()
    values = out[seen]
    factor = np.float32(min(max(penalty, TINY), LARGEST))
    with np.errstate(over="ignore"):
        moved = np.where(values < 0, values * factor, values / factor)
    # A penalty of any size leaves numbers; logits that are none stay what they are.
    out[seen] = np.where(np.isfinite(values), moved.clip(-LARGEST, LARGEST), values)
    return out


def keep_top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Token ids, ascending, of the k best of scores [vocab] and of ties with the k-th; 0: all."""
    if k == 0 or k >= len(scores):
        return np.arange(len(scores))
    kth = np.partition(scores, -k)[-k]
    return np.flatnonzero(scores >= kth)


def keep_top_p(scores: np.ndarray, candidates: np.ndarray, p: float) -> np.ndarray:
    """The smallest set of best candidates whose probabilities add up to p; at least one.

    scores: [vocab] float32; candidates: [n] token ids, ascending, as the result.
    """
    if p == 1.0:
        return candidates
    weights = np.exp(scores[candidates])
    ordered = np.sort(weights)[::-1]  # values only: sorting indices takes several times longer
    sums = np.cumsum(ordered.astype(np.float64))
    count = int(np.searchsorted(sums, p * sums[-1], side="left")) + 1
    least = ordered[count - 1]
    better = np.flatnonzero(weights > least)
    equal = np.flatnonzero(weights == least)[: count - len(better)]
    kept: np.ndarray = candidates[np.sort(np.concatenate([better, equal]))]
    return kept


def keep_min_p(scores: np.ndarray, candidates: np.ndarray, min_p: float) -> np.ndarray:
    """Candidates at least min_p times as likely as the best one.

    scores: [vocab] float32; candidates: [n] token ids, ascending, as the result.
    """
    if min_p == 0.0:
        return candidates
    kept = scores[candidates]
    likely: np.ndarray = candidates[np.exp(kept - kept.max()) >= min_p]
    return likely
