"""Ten schemas of pydantic models, and an engine's texts held to them.

Validity is judged by pydantic, not by the library that holds the texts.
"""

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from river_trt import Engine, GenerationConfig
from river_trt.grammar import Grammar
from river_trt.results import GenerationResult

Word = Annotated[str, Field(max_length=24)]


class Closed(BaseModel):
    """A schema whose texts end: no further properties, nothing of any length."""

    model_config = ConfigDict(extra="forbid")


class Colour(Enum):
    """An enumeration."""

    RED = "red"
    GREEN = "green"
    BLUE = "blue"


class Answer(Closed):
    """Booleans and numbers within bounds."""

    is_true: bool
    percent: Annotated[int, Field(ge=0, le=100)]


class Person(Closed):
    """Strings, and one that may be missing."""

    name: Word
    age: Annotated[int, Field(ge=0, le=130)]
    nickname: Word | None


class City(Closed):
    """A part of others."""

    name: Word
    country: Annotated[str, Field(pattern="^[A-Z]{2}$")]


class Journey(Closed):
    """References, and a list of them."""

    start: City
    stops: Annotated[list[City], Field(min_length=1, max_length=2)]
    by: Literal["train", "ship", "foot"]


class Paint(Closed):
    """Enumerations in a list."""

    colours: Annotated[list[Colour], Field(min_length=1, max_length=4)]
    is_wet: bool


class Event(Closed):
    """Formats."""

    title: Word
    day: datetime.date


class Vector(Closed):
    """A list of fixed length."""

    values: Annotated[list[Annotated[int, Field(ge=-99, le=99)]], Field(min_length=3, max_length=3)]


class Circle(Closed):
    """One of two shapes."""

    kind: Literal["circle"]
    radius: Annotated[int, Field(ge=1, le=1000)]


class Square(Closed):
    """The other."""

    kind: Literal["square"]
    side: Annotated[int, Field(ge=1, le=1000)]


class Drawing(Closed):
    """A choice between objects."""

    shape: Circle | Square
    colour: Colour = Colour.RED


class Plate(Closed):
    """Regular expressions."""

    number: Annotated[str, Field(pattern="^[A-Z]{1,3}-[0-9]{2,4}$")]


class Leaf(Closed):
    """An end."""

    value: Annotated[int, Field(ge=0, le=9)]


class Branch(Closed):
    """A tree may not refer to itself: a model goes on with it for ever."""

    left: Leaf
    right: Leaf


class Tree(Closed):
    """Objects in objects in objects."""

    left: Branch | Leaf
    right: Branch | Leaf


class Review(Closed):
    """What people ask of a model."""

    sentiment: Literal["positive", "neutral", "negative"]
    stars: Annotated[int, Field(ge=1, le=5)]
    summary: Annotated[str, Field(max_length=60)]
    words: Annotated[list[Word], Field(max_length=3)]


MODELS: dict[type[Closed], str] = {
    Answer: "Is water wet? How sure are you?",
    Person: "Describe a person of a story.",
    Journey: "Plan a short journey.",
    Paint: "Which colours has a rainbow?",
    Event: "When was the first landing on the moon?",
    Vector: "Give me three numbers.",
    Drawing: "Draw something.",
    Plate: "Make up a number plate.",
    Tree: "Make a small tree of numbers.",
    Review: "What do you think of the film?",
}


@dataclass(slots=True)
class Found:
    """Texts of one schema: how many are valid, what is wrong with another, and the time."""

    texts: int = 0
    valid: int = 0
    problem: str = ""
    tokens: int = 0
    seconds: float = 0.0
    mask_seconds: float = 0.0  # CPU time of the masks
    masks: int = 0


def hold(
    engine: Engine, model: type[Closed], prompts: Sequence[Any], config: GenerationConfig
) -> tuple[Found, list[GenerationResult]]:
    """Generate by the model's schema, and let pydantic read the texts."""
    found, mask = Found(), Grammar.mask
    Grammar.mask = _timed(mask, found)  # type: ignore[method-assign]
    started = time.perf_counter()
    try:
        results = engine.generate(
            list(prompts), replace(config, json_schema=model.model_json_schema())
        )
    finally:
        Grammar.mask = mask  # type: ignore[method-assign]
    found.seconds = time.perf_counter() - started
    for result in results:
        found.texts += 1
        found.tokens += len(result.token_ids)
        try:
            model.model_validate_json(result.text or "")
            found.valid += 1
        except ValidationError as error:
            reason = str(error).splitlines()[-2].strip()
            found.problem = f"{result.finish_reason}: {result.text!r:.300}: {reason}"
    return found, results


def _timed(mask: Callable[..., Any], found: Found) -> Callable[..., Any]:
    def timed(grammar: Grammar, drafted: Sequence[int] = ()) -> Any:
        started = time.thread_time()
        try:
            return mask(grammar, drafted)
        finally:
            found.mask_seconds += time.thread_time() - started
            found.masks += 1

    return timed
