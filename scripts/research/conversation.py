"""A chat of many turns against a server, with the time to each answer's first token."""

import time
from dataclasses import dataclass

from river_trt import GenerationConfig
from river_trt.results import GenerationResult
from river_trt.serving.server import Server
from river_trt.text import Chat

QUESTION = (
    "This is question {number} of our long talk about rivers. Please tell me something new about "
    "the way that water takes from the mountains to the sea: what it carries along, what lives in "
    "it, which towns people have built beside it, how they crossed it before there were bridges, "
    "and what became of the mills, the ferries and the fishermen. Do not repeat what you have said "
    "before, keep it short, and end with one plain sentence that a child of ten can understand."
)


@dataclass(frozen=True, slots=True)
class Turn:
    """first_token: seconds from the request on."""

    first_token: float
    result: GenerationResult


async def converse(server: Server, turns: int, config: GenerationConfig) -> list[Turn]:
    """Each turn's prompt is all that was said before, and a question."""
    messages: list[dict[str, str]] = []
    found = []
    for number in range(turns):
        messages.append({"role": "user", "content": QUESTION.format(number=number + 1)})
        started, first = time.perf_counter(), None
        async for event in server.stream(Chat(list(messages)), config):
            if first is None:
                first = time.perf_counter() - started
            result = event.result
        assert first is not None and result is not None
        messages.append({"role": "assistant", "content": result.text or ""})
        found.append(Turn(first, result))
    return found
