"""The endpoints, and one request's life from its body to its last token."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

import river_trt
from river_trt.config import GenerationConfig
from river_trt.engine import Engine
from river_trt.errors import RiverError
from river_trt.openai.answers import FINISH, Answer
from river_trt.openai.asks import Ask, as_texts, chat_ask, completion_ask, read_fields
from river_trt.openai.errors import ApiError, as_api_error
from river_trt.openai.fields import (
    ChatFields,
    CompletionFields,
    DetokenizeFields,
    TokenizeFields,
)
from river_trt.openai.metrics import HttpMetrics, Watch
from river_trt.openai.settings import ServeSettings
from river_trt.openai.tools import may_open
from river_trt.prompts import Prompt
from river_trt.results import GenerationResult, TokenEvent, TokenLogprobs
from river_trt.serving.server import Server
from river_trt.text import Chat, ChatOptions, Tokenizer
from river_trt.text.tokenizer import READY

PAGE = Path(__file__).with_name("page.html")
# Nothing from elsewhere, and nothing to elsewhere.
CSP = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
T = TypeVar("T")
Ended = tuple[int, TokenEvent | BaseException]


@dataclass(frozen=True, slots=True)
class Model:
    """One engine under its name."""

    name: str
    engine: Engine
    server: Server
    created: int  # seconds since 1970

    @property
    def tokenizer(self) -> Tokenizer:
        if self.engine.tokenizer is None:
            raise ApiError(400, f"the model {self.name} has no tokenizer: it takes token ids only")
        return self.engine.tokenizer

    def describe(self) -> dict[str, Any]:
        """As /v1/models shows it."""
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "river-trt",
            "max_model_len": self.engine.max_seq_len,
            "river": {
                "num_layers": self.engine.num_layers,
                "backend": self.engine.manifest.backend.name,
            },
        }


@dataclass(slots=True)
class Held:
    """What of a stream's choice is held back while it may become a call."""

    text: str = ""
    logprobs: list[TokenLogprobs] = field(default_factory=list)


class Routes:
    """What every route needs; `router` has them all."""

    def __init__(
        self, settings: ServeSettings, models: Mapping[str, Model], metrics: HttpMetrics
    ) -> None:
        self._settings, self._models, self._metrics = settings, models, metrics
        self.router = APIRouter()
        add = self.router.add_api_route
        add("/", self.page, methods=["GET"])
        add("/v1/models", self.list_models, methods=["GET"])
        add("/v1/models/{name:path}", self.one_model, methods=["GET"])
        add("/v1/completions", self.completions, methods=["POST"])
        add("/v1/chat/completions", self.chat, methods=["POST"])
        add("/tokenize", self.tokenize, methods=["POST"])
        add("/tokenizer_info", self.tokenizer_info, methods=["GET"])
        add("/detokenize", self.detokenize, methods=["POST"])
        add("/health", self.health, methods=["GET"])
        add("/ready", self.ready, methods=["GET"])
        add("/version", self.version, methods=["GET"])
        add("/metrics", self.scrape, methods=["GET"])

    async def page(self) -> Response:
        """A chat whose tokens are coloured by the layer at which they left the backbone."""
        return HTMLResponse(
            PAGE.read_text(encoding="utf-8"), headers={"Content-Security-Policy": CSP}
        )

    async def list_models(self) -> dict[str, Any]:
        """GET /v1/models."""
        return {"object": "list", "data": [model.describe() for model in self._models.values()]}

    async def one_model(self, name: str) -> dict[str, Any]:
        """GET /v1/models/NAME; 404 for another name."""
        return self._find(name).describe()

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        fields = read_fields(await request.body(), CompletionFields)
        model = self._find(fields.model)
        ask = completion_ask(fields, self._settings.most_choices)
        return await self._answer(request, model, ask, chat=False)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        fields = read_fields(await request.body(), ChatFields)
        model = self._find(fields.model)
        ask = chat_ask(fields, model.engine.max_seq_len, self._settings.most_choices)
        return await self._answer(request, model, ask, chat=True)

    async def tokenize(self, request: Request) -> dict[str, Any]:
        """POST /tokenize: the ids of a prompt or a conversation."""
        fields = read_fields(await request.body(), TokenizeFields)
        model = self._find(fields.model)
        if (fields.prompt is None) == (fields.messages is None):
            raise ApiError(400, "give prompt or messages, one of the two", "prompt")
        tokens = await asyncio.to_thread(_tokens, model, fields)
        count = {"count": len(tokens), "max_model_len": model.engine.max_seq_len}
        return count | {"tokens": tokens}

    async def tokenizer_info(self, model: str | None = None) -> dict[str, Any]:
        """GET /tokenizer_info: what lm-evaluation-harness asks for where it has no tokenizer."""
        found = self._find(model)
        tokenizer, info = found.tokenizer, found.engine.manifest.model
        eos = info.eos_token_ids[0] if info.eos_token_ids else None
        names = {"bos_token": info.bos_token_id, "eos_token": eos, "pad_token": None}
        shown = {
            name: None if token is None else tokenizer.raw.id_to_token(token)
            for name, token in names.items()
        }
        has_template = tokenizer.has_chat_template
        template = tokenizer.chat_templates.choose(READY).text() if has_template else None
        return shown | {"chat_template": template}

    async def detokenize(self, request: Request) -> dict[str, Any]:
        """POST /detokenize: the text of token ids."""
        fields = read_fields(await request.body(), DetokenizeFields)
        model = self._find(fields.model)
        vocab = model.engine.manifest.model.shape.vocab_size
        wrong = [token for token in fields.tokens if not 0 <= token < vocab]
        if wrong:
            raise ApiError(
                400, f"token id {wrong[0]} is outside the vocabulary 0..{vocab - 1}", "tokens"
            )
        return {"prompt": await asyncio.to_thread(model.tokenizer.decode, fields.tokens)}

    async def health(self) -> Response:
        """The process is alive and answers."""
        return Response(status_code=200)

    async def ready(self) -> Response:
        """Every model can answer; 503 with the reason where one cannot."""
        failed = {m.name: m.server.failure for m in self._models.values() if m.server.failure}
        return JSONResponse({"ready": not failed, "failed": failed}, 503 if failed else 200)

    async def version(self) -> dict[str, str]:
        """Of river-trt."""
        return {"version": river_trt.__version__}

    async def scrape(self) -> Response:
        """GET /metrics, for Prometheus."""
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    def _find(self, name: str | None) -> Model:
        if name is None and len(self._models) == 1:
            return next(iter(self._models.values()))
        if name is None or name not in self._models:
            known = ", ".join(self._models)
            asked = "the request names no model" if name is None else f"no model {name!r:.80}"
            raise ApiError(404, f"{asked}; this server has {known}", "model", "model_not_found")
        return self._models[name]

    async def _answer(self, request: Request, model: Model, ask: Ask, *, chat: bool) -> Response:
        engine = model.engine
        answer = Answer.new(chat, model.name, engine.num_layers, ask, engine.tokenizer)
        request.state.log["model"] = model.name
        if ask.config.json_schema is not None:
            await asyncio.to_thread(_check_schema, engine, ask)
        events = self._events(model, ask)
        if not ask.stream:
            results = await until_gone(request, _results(events, ask.num_choices))
            body = answer.whole(results)
            _note(request, body["usage"])
            return JSONResponse(body)
        # Errors that come before the first token are answered with their own status.
        first = await until_gone(request, anext(events))
        chunks = self._chunks(request, answer, ask, first, events)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(chunks, media_type="text/event-stream", headers=headers)

    async def _chunks(
        self,
        request: Request,
        answer: Answer,
        ask: Ask,
        first: tuple[int, TokenEvent],
        events: AsyncGenerator[tuple[int, TokenEvent], None],
    ) -> AsyncIterator[bytes]:
        results: dict[int, GenerationResult] = {}
        opened: set[int] = set()
        held = {index: Held() for index in range(ask.num_choices) if ask.tools}
        async with aclosing(events):
            try:
                found: tuple[int, TokenEvent] | None = first
                while found is not None:
                    index, event = found
                    if answer.chat and index not in opened:
                        opened.add(index)
                        yield _sse(answer.opening(index))
                    if index in held:
                        back = held[index]
                        back.text += event.text
                        back.logprobs += [] if event.logprobs is None else [event.logprobs]
                        if event.finish_reason is not None:
                            finish = FINISH[event.finish_reason]
                            yield _sse(answer.called(index, back.text, finish, back.logprobs))
                        elif not may_open(back.text):  # a text after all
                            del held[index]
                            yield _sse(answer.released(index, back.text, back.logprobs))
                            event = replace(event, text="", logprobs=None)
                    if index not in held:
                        chunk = answer.piece(index, event)
                        if chunk is not None:
                            yield _sse(chunk)
                    if event.result is not None:
                        results[index] = event.result
                    found = await anext(events, None)
            except Exception as error:  # the status is sent; what is left is to say it
                yield _sse(as_api_error(error).body)
                return
        in_order = [results[index] for index in sorted(results)]
        usage = answer.usage(in_order)
        _note(request, usage)
        if ask.include_usage:
            yield _sse(answer.closing(usage))
        yield b"data: [DONE]\n\n"

    async def _events(self, model: Model, ask: Ask) -> AsyncGenerator[tuple[int, TokenEvent], None]:
        """The tokens of all choices as they come; the first error ends all of them."""
        queue: asyncio.Queue[Ended] = asyncio.Queue()

        async def follow(index: int, prompt: Prompt, config: GenerationConfig) -> None:
            watch = Watch(self._metrics, model.name)
            try:
                async with aclosing(model.server.stream(prompt, config)) as events:
                    async for event in events:
                        watch.see(event)
                        queue.put_nowait((index, event))
            except BaseException as error:
                queue.put_nowait((index, error))
                raise

        tasks = [
            asyncio.create_task(follow(index, prompt, config))
            for index, (prompt, config) in enumerate(ask.choices())
        ]
        seconds, late = self._settings.request_seconds, (0, TimeoutError())
        timer = asyncio.get_running_loop().call_later(seconds, queue.put_nowait, late)
        left = len(tasks)
        try:
            while left:
                index, event = await queue.get()
                if isinstance(event, BaseException):
                    raise event
                left -= event.result is not None
                yield index, event
        finally:
            timer.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; it is cancelled when the client leaves, which is status 499."""
    task = asyncio.ensure_future(work)

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    watcher = asyncio.create_task(gone())
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client has left")
        return task.result()
    finally:
        for each in (task, watcher):
            each.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _results(
    events: AsyncGenerator[tuple[int, TokenEvent], None], count: int
) -> list[GenerationResult]:
    found: dict[int, GenerationResult] = {}
    async with aclosing(events):
        async for index, event in events:
            if event.result is not None:
                found[index] = event.result
    return [found[index] for index in range(count)]


def _check_schema(engine: Engine, ask: Ask) -> None:
    """Compile it, which may take long; ApiError naming the field that it comes from."""
    schema = ask.config.json_schema
    assert isinstance(schema, str)
    try:
        engine.grammars.start(schema)
    except RiverError as error:
        raise ApiError(400, str(error), ask.schema_field) from error


def _tokens(model: Model, fields: TokenizeFields) -> list[int]:
    """Bounded as a prompt is, and on a thread of its own."""
    if fields.messages is not None:
        options = ChatOptions(
            add_generation_prompt=fields.add_generation_prompt,
            arguments=fields.chat_template_kwargs,
        )
        tokens: list[int] = model.engine.prompts.read(
            Chat(as_texts(fields.messages), options)
        ).tolist()
        return tokens
    assert fields.prompt is not None
    tokenizer = model.tokenizer
    model.engine.prompts.check_length(fields.prompt)
    return tokenizer.encode(fields.prompt, add_special_tokens=fields.add_special_tokens)


def _note(request: Request, usage: Mapping[str, Any]) -> None:
    request.state.log |= {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "backbone_layers": usage["river"]["mean_backbone_layers"],
    }


def _sse(part: Mapping[str, Any]) -> bytes:
    text = json.dumps(part, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text}\n\n".encode("utf-8", "replace")
