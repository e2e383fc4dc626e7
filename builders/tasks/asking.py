"""Many questions at once: they share steps, and the beginning that they have in common."""

from collections.abc import Iterator, Mapping
from typing import Any

from river_trt.config import GenerationConfig
from river_trt.engine import Engine
from river_trt.errors import RiverError
from river_trt.prompts import Prompt
from river_trt.results import GenerationResult

# How to load an engine for it: answers are those of a question alone, and the worked examples, with
# which all of them begin, are read once.
TOGETHER: dict[str, Any] = {"max_batch_size": 8, "kept_rows": 1, "batch_invariant": True}


def ask_all(
    engine: Engine,
    prompts: Mapping[int, Prompt],  # by number
    config: GenerationConfig,
) -> Iterator[tuple[int, GenerationResult]]:
    """Each number with its result, as they come.

    A backend with a decoding loop of its own is asked one by one.
    """
    if not engine.can_serve:
        for number, prompt in prompts.items():
            (result,) = engine.generate([prompt], config)
            yield number, result
        return
    scheduler = engine.scheduler(max_queue=len(prompts))
    try:
        numbers = {scheduler.submit(prompt, config): n for n, prompt in prompts.items()}
        while scheduler.has_work:
            for delivery in scheduler.step():
                if isinstance(delivery.item, RiverError):
                    raise delivery.item
                if delivery.item.result is not None:
                    yield numbers[delivery.request], delivery.item.result
    finally:
        scheduler.close()
