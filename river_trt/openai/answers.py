"""Answers and the chunks of a stream, as OpenAI's clients read them."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from river_trt.openai.tools import parse_calls
from river_trt.results import GenerationResult, TokenEvent

FINISH = {"eos": "stop", "stop": "stop", "length": "length"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What all parts of one answer share."""

    chat: bool
    model: str
    num_layers: int
    trace: bool
    tools: tuple[str, ...] = ()  # names of those that may be called
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def new(
        cls, chat: bool, model: str, num_layers: int, trace: bool, tools: tuple[str, ...] = ()
    ) -> "Answer":
        """Of a name of its own."""
        name = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        return cls(chat, model, num_layers, trace, tools, name)

    def whole(self, results: Sequence[GenerationResult], n: int) -> dict[str, Any]:
        """n: choices of each prompt, whose tokens count once."""
        choices = []
        for index, result in enumerate(results):
            text = result.text or ""
            choice: dict[str, Any] = {"index": index}
            finish = FINISH[result.finish_reason]
            if self.chat:
                content, calls = parse_calls(text, self.tools) if self.tools else (text, [])
                message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
                if calls:
                    message |= {"content": content or None}
                    message["tool_calls"] = [call.described() for call in calls]
                    finish = "tool_calls" if finish == "stop" else finish
                choice["message"] = message
            else:
                choice["text"] = text
            choice |= {"logprobs": None, "finish_reason": finish}
            if self.trace:
                choice["river"] = {
                    "token_ids": result.token_ids,
                    "exit_layers": result.exit_layers.tolist(),
                    "backbone_layers": result.backbone_layers.tolist(),
                }
            choices.append(choice)
        return self._part("", choices) | {"usage": self.usage(results, n)}

    def opening(self, index: int) -> dict[str, Any]:
        """A chat's first chunk, which says who speaks."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None)

    def piece(self, index: int, event: TokenEvent) -> dict[str, Any] | None:
        """A token's chunk; None for one that shows nothing."""
        finish = None if event.finish_reason is None else FINISH[event.finish_reason]
        if not event.text and finish is None and not self.trace:
            return None
        content = {"content": event.text} if event.text else {}
        chunk = self._chunk(index, content, finish, event.text)
        if self.trace:
            chunk["choices"][0]["river"] = {
                "token_id": event.token_id,
                "exit_layer": event.exit_layer,
                "backbone_layers": event.backbone_layers,
            }
        return chunk

    def called(self, index: int, text: str, finish: str) -> dict[str, Any]:
        """The last chunk of a choice whose text was held back, since it began like a call."""
        content, calls = parse_calls(text, self.tools)
        delta: dict[str, Any] = {"content": content} if content else {}
        if calls:
            delta["tool_calls"] = [call.described(place) for place, call in enumerate(calls)]
            finish = "tool_calls" if finish == "stop" else finish
        return self._chunk(index, delta, finish)

    def closing(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The chunk of the usage, behind all others."""
        return self._part(".chunk", []) | {"usage": usage}

    def usage(self, results: Sequence[GenerationResult], n: int) -> dict[str, Any]:
        """Tokens of the prompts, once each, and of all choices; what the river did."""
        prompt = sum(result.prompt_tokens for result in results[::n])
        completion = sum(len(result.token_ids) for result in results)
        # A request's first token comes of its prefill, on the backbone.
        layers = [int(layer) for r in results for layer in r.backbone_layers[1:]]
        mean = sum(layers) / len(layers) if layers else float(self.num_layers)
        river: dict[str, Any] = {
            "mean_backbone_layers": round(mean, 3),
            "num_layers": self.num_layers,
        }
        drafts = [result.speculation for result in results if result.speculation is not None]
        if drafts:
            river["drafted_tokens"] = sum(int(draft.drafted.sum()) for draft in drafts)
            river["accepted_tokens"] = sum(int(draft.accepted.sum()) for draft in drafts)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "river": river,
        }

    def _chunk(
        self, index: int, delta: dict[str, Any], finish: str | None, text: str = ""
    ) -> dict[str, Any]:
        content: dict[str, Any] = {"delta": delta} if self.chat else {"text": text}
        choice = {"index": index} | content | {"logprobs": None, "finish_reason": finish}
        return self._part(".chunk", [choice])

    def _part(self, suffix: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.chat else "text_completion"
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
