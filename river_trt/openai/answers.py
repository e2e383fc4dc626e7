"""Answers and the chunks of a stream, as OpenAI's clients read them."""

import dataclasses
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from river_trt.openai.asks import Ask
from river_trt.openai.logprobs import CompletionLogprobs, chat_logprobs
from river_trt.openai.tools import parse_calls
from river_trt.results import GenerationResult, TokenEvent, TokenLogprobs
from river_trt.text import Tokenizer

FINISH = {"eos": "stop", "stop": "stop", "length": "length"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What all parts of one answer share."""

    chat: bool
    model: str
    num_layers: int
    ask: Ask
    tokenizer: Tokenizer | None
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))
    # Of a completion's choices, by index.
    _logprobs: dict[int, CompletionLogprobs] = field(default_factory=dict)

    @classmethod
    def new(
        cls, chat: bool, model: str, num_layers: int, ask: Ask, tokenizer: Tokenizer | None
    ) -> "Answer":
        """Of a name of its own."""
        name = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        return cls(chat, model, num_layers, ask, tokenizer, name)

    def whole(self, results: Sequence[GenerationResult]) -> dict[str, Any]:
        """The answer in one piece; results: of each choice."""
        choices = []
        if self.ask.is_echo_only:
            results = [_without_text(result) for result in results]
        for index, result in enumerate(results):
            text = result.text or ""
            choice: dict[str, Any] = {"index": index}
            finish, tools = FINISH[result.finish_reason], self.ask.tools
            if self.chat:
                content, calls = parse_calls(text, tools) if tools else (text, [])
                message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
                if calls:
                    message |= {"content": content or None}
                    message["tool_calls"] = [call.described() for call in calls]
                    finish = "tool_calls" if finish == "stop" else finish
                choice["message"] = message
            else:
                choice["text"] = self._echo(index) + text if self.ask.echo else text
            known = None
            if result.logprobs is not None:
                known = self._known(index, [*(result.prompt_logprobs or ()), *result.logprobs])
            choice |= {"logprobs": known, "finish_reason": finish}
            if self.ask.trace:
                choice["river"] = {
                    "token_ids": result.token_ids,
                    "exit_layers": result.exit_layers.tolist(),
                    "backbone_layers": result.backbone_layers.tolist(),
                }
            choices.append(choice)
        return self._part("", choices) | {"usage": self.usage(results)}

    def _echo(self, index: int) -> str:
        """The text of a choice's prompt."""
        prompt: Any = self.ask.prompts[index // self.ask.n]
        if isinstance(prompt, str):
            return prompt
        return "" if self.tokenizer is None else self.tokenizer.decode(prompt)

    def _known(self, index: int, items: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """Log-probabilities of a choice's next tokens."""
        if self.chat:
            return chat_logprobs(self.tokenizer, items)
        return self._logprobs.setdefault(index, CompletionLogprobs(self.tokenizer)).add(items)

    def opening(self, index: int) -> dict[str, Any]:
        """A chat's first chunk, which says who speaks."""
        return self._chunk(index, {"role": "assistant", "content": ""}, None)

    def piece(self, index: int, event: TokenEvent) -> dict[str, Any] | None:
        """A token's chunk; None for one that shows nothing."""
        finish = None if event.finish_reason is None else FINISH[event.finish_reason]
        logprobs = [] if event.logprobs is None else [event.logprobs]
        if not event.text and finish is None and not self.ask.trace and not logprobs:
            return None
        content = {"content": event.text} if event.text else {}
        chunk = self._chunk(index, content, finish, event.text, logprobs)
        if self.ask.trace:
            chunk["choices"][0]["river"] = {
                "token_id": event.token_id,
                "exit_layer": event.exit_layer,
                "backbone_layers": event.backbone_layers,
            }
        return chunk

    def released(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """The chunk of a text that was held back and is no call."""
        return self._chunk(index, {"content": text}, None, text, logprobs)

    def called(
        self, index: int, text: str, finish: str, logprobs: Sequence[TokenLogprobs]
    ) -> dict[str, Any]:
        """The last chunk of a choice whose text was held back, since it began like a call."""
        content, calls = parse_calls(text, self.ask.tools)
        delta: dict[str, Any] = {"content": content} if content else {}
        if calls:
            delta["tool_calls"] = [call.described(place) for place, call in enumerate(calls)]
            finish = "tool_calls" if finish == "stop" else finish
        return self._chunk(index, delta, finish, logprobs=logprobs)

    def closing(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The chunk of the usage, behind all others."""
        return self._part(".chunk", []) | {"usage": usage}

    def usage(self, results: Sequence[GenerationResult]) -> dict[str, Any]:
        """Tokens of the prompts, once each, and of all choices; what the river did."""
        prompt = sum(result.prompt_tokens for result in results[:: self.ask.n])
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
            "prompt_tokens_details": {
                "cached_tokens": sum(result.reused_tokens for result in results[:: self.ask.n])
            },
            "river": river,
        }

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        finish: str | None,
        text: str = "",
        logprobs: Sequence[TokenLogprobs] = (),
    ) -> dict[str, Any]:
        content: dict[str, Any] = {"delta": delta} if self.chat else {"text": text}
        known = self._known(index, logprobs) if logprobs else None
        choice = {"index": index} | content | {"logprobs": known, "finish_reason": finish}
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


def _without_text(result: GenerationResult) -> GenerationResult:
    """Of a request for the prompt alone."""
    nothing = np.zeros(0, np.int32)
    return dataclasses.replace(
        result,
        text="",
        token_ids=[],
        finish_reason="length",
        exit_layers=nothing,
        backbone_layers=nothing,
        logprobs=None if result.logprobs is None else [],
    )
