"""What a benchmark decodes after."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from river_trt.engine import Engine
from river_trt.errors import RiverError
from river_trt.prompts import Prompt

BUILT_IN = (
    "Why is the sky blue?",
    "Write a short story about a river that forgot the way to the sea.",
    "List three habits that help people to learn a new language.",
    "Explain how a bicycle stays upright.",
    "What should I pack for a week in the mountains?",
    "Write a polite letter to a neighbour whose dog barks at night.",
    "How do plants turn light into sugar?",
    "Give me a recipe for a simple tomato soup.",
)


def cut_prompts(
    engine: Engine,
    prompts: Sequence[Prompt],  # token ids
    length: int,
    count: int,
    text: Path | None,
) -> list[list[int]]:
    """`count` prompts of so many tokens: pieces of a UTF-8 text, or the prompts, repeated.

    Raises RiverError where the text cannot be read or has fewer tokens.
    """
    if text is None:
        return [np.resize(np.asarray(prompt), length).tolist() for prompt in prompts]
    if engine.tokenizer is None:
        raise RiverError("this engine has no tokenizer, so it cannot read a text")
    try:
        tokens = engine.tokenizer.encode(text.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RiverError(f"{text} cannot be read as UTF-8 text ({error})") from error
    if len(tokens) < length * count:
        raise RiverError(f"{text} has {len(tokens)} tokens; {count} prompts need {length * count}")
    starts = np.linspace(0, len(tokens) - length, count).astype(int)
    return [tokens[start : start + length] for start in starts]
