"""Which places of a group share a step when not all of its rows take part.

A step runs neighbouring cache rows, each with as many tokens. Rows between two that take part run
idle, and rows with fewer tokens than the others are filled up: what either writes lies behind the
slots in use, where the next step over them writes again. A row that has no room for it ends a span.

    tokens   2 . 1 3 | 2        .  idle, in the span of 3 tokens; the last row has room for two only
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """start: the first slot that the step writes. tokens: how many the row has; 0: it is idle."""

    start: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring places that run the same number of tokens in one step."""

    first: int
    end: int  # of the places
    tokens: int  # of each


def spans(places: Sequence[Place], cache_length: int) -> list[Span]:
    """Few spans, in order, that hold all places with tokens."""
    found: list[Span] = []
    for index, place in enumerate(places):
        if not place.tokens:
            continue
        if found:
            last = found[-1]
            tokens = max(last.tokens, place.tokens)
            covered = places[last.first : index + 1]
            if all(one.start + tokens <= cache_length for one in covered):
                found[-1] = Span(last.first, index + 1, tokens)
                continue
        found.append(Span(index, index + 1, place.tokens))
    return found
