"""From the bytes of a request to prompts and GenerationConfigs."""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from river_trt.config import MOST_LOGPROBS, GenerationConfig
from river_trt.errors import RiverError
from river_trt.json_text import parse_json
from river_trt.openai.errors import ApiError
from river_trt.openai.fields import (
    IGNORED,
    NEUTRAL,
    ChatFields,
    CompletionFields,
    Fields,
    NamedTool,
    Sampled,
    Tool,
)
from river_trt.openai.tools import call_schema
from river_trt.prompts import Prompt
from river_trt.text import Chat, ChatOptions

DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's
F = TypeVar("F", bound=Fields)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request as the engine takes it: each prompt `n` times."""

    prompts: list[Prompt]
    config: GenerationConfig
    n: int
    stream: bool
    include_usage: bool
    trace: bool
    tools: tuple[str, ...] = ()  # names of those that may be called
    echo: bool = False
    is_echo_only: bool = False  # the token that is generated all the same is not shown
    schema_field: str = "response_format"  # what the config's json_schema comes from

    @property
    def num_choices(self) -> int:
        return self.n * len(self.prompts)

    def choices(self) -> list[tuple[Prompt, GenerationConfig]]:
        """In the order of the answer's choices; each of a seed of its own, if there is one."""
        made: list[tuple[Prompt, GenerationConfig]] = []
        for prompt in self.prompts:
            for _ in range(self.n):
                seed = self.config.seed
                seed = None if seed is None else seed + len(made)
                made.append((prompt, replace(self.config, seed=seed)))
        return made


def read_fields(body: bytes, kind: type[F]) -> F:
    """ApiError naming the field for a body that is no such request."""
    try:
        values = parse_json(body)
    except ValueError as error:  # not UTF-8, not JSON, nested without an end
        raise ApiError(400, f"the body is no JSON: {str(error)[:200]}") from error
    if not isinstance(values, dict):
        raise ApiError(400, "the body must be a JSON object")
    values = {name: value for name, value in values.items() if name not in IGNORED}
    for name in sorted(values.keys() & NEUTRAL.keys()):
        value = values.pop(name)
        if not any(_same(value, neutral) for neutral in NEUTRAL[name]):
            raise ApiError(400, f"{name} is not offered by this server; leave it out", name)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _first_problem(error) from None


def completion_ask(fields: CompletionFields, most_choices: int) -> Ask:
    """OpenAI's four forms of a prompt: a text, texts, token ids, lists of token ids."""
    given: Any = fields.prompt
    flat = isinstance(given, str) or not given or isinstance(given[0], int)
    prompts: list[Prompt] = [given] if flat else given
    tokens = DEFAULT_COMPLETION_TOKENS if fields.max_tokens is None else fields.max_tokens
    echo = bool(fields.echo)
    if echo and fields.stream:
        raise ApiError(400, "echo is not for streams", "echo")
    ask = _ask(fields, prompts, max(tokens, 1) if echo else tokens, most_choices)
    logprobs = _count("logprobs", fields.logprobs)
    config = replace(ask.config, logprobs=logprobs, prompt_logprobs=logprobs if echo else None)
    return replace(ask, config=config, echo=echo, is_echo_only=echo and tokens == 0)


def chat_ask(fields: ChatFields, most_tokens: int, most_choices: int) -> Ask:
    """A conversation; without a limit the answer may fill the cache, as OpenAI has it."""
    tools, must_call = _callable_tools(fields)
    options = ChatOptions(
        tools=[tool.model_dump(exclude_none=True) for tool in tools] or None,
        add_generation_prompt=fields.add_generation_prompt and not fields.continue_final_message,
        continue_final_message=fields.continue_final_message,
        arguments=fields.chat_template_kwargs,
    )
    given = fields.max_completion_tokens
    tokens = fields.max_tokens if given is None else given
    chat = Chat(as_texts(fields.messages), options)
    ask = _ask(fields, [chat], most_tokens if tokens is None else tokens, most_choices)
    ask = replace(ask, tools=tuple(tool.function.name for tool in tools))
    if fields.top_logprobs and not fields.logprobs:
        raise ApiError(400, "top_logprobs is for requests with logprobs true", "top_logprobs")
    logprobs = _count("top_logprobs", fields.top_logprobs or 0) if fields.logprobs else None
    config = replace(ask.config, logprobs=logprobs)
    if not must_call:
        return replace(ask, config=config)
    if config.json_schema is not None:
        raise ApiError(400, "tool_choice and response_format exclude each other", "tool_choice")
    schema = call_schema([(tool.function.name, tool.function.parameters) for tool in tools])
    try:
        config = replace(config, json_schema=schema)
    except RiverError as error:  # of its size
        raise ApiError(400, str(error), "tools") from error
    return replace(ask, config=config, schema_field="tools")


def as_texts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose content is text, as templates take it; clients may send it in parts."""
    found = []
    for number, message in enumerate(messages):
        parts = message.get("content")
        if isinstance(parts, list):
            texts = []
            for part in parts:
                text = part.get("text") if isinstance(part, dict) else None
                if not isinstance(text, str) or part.get("type") != "text":
                    raise ApiError(
                        400, f"messages.{number}.content must be text or parts of text", "messages"
                    )
                texts.append(text)
            message = message | {"content": "\n".join(texts)}
        found.append(message)
    return found


def _callable_tools(fields: ChatFields) -> tuple[list[Tool], bool]:
    """The tools that may be called, and whether one of them must be."""
    choice = fields.tool_choice
    if choice == "none":
        return [], False
    if choice == "auto":
        return fields.tools, False
    tools = fields.tools
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool.function.name == choice.function.name]
    if not tools:
        raise ApiError(400, "tool_choice asks for a tool that tools has not", "tool_choice")
    return tools, True


def _count(name: str, value: int | None) -> int | None:
    if value is not None and not 0 <= value <= MOST_LOGPROBS:
        raise ApiError(400, f"{name} must be 0 to {MOST_LOGPROBS}, got {value}", name)
    return value


def _bias(fields: Sampled) -> dict[int, float]:
    """JSON's names are strings."""
    bias = fields.logit_bias or {}
    for name in bias:
        if not name.isascii() or not name.isdigit() or len(name) > 9:
            raise ApiError(400, f"logit_bias must name token ids, got {name!r:.40}", "logit_bias")
    return {int(name): value for name, value in bias.items()}


def _schema(fields: Sampled) -> dict[str, Any] | None:
    asked = fields.response_format
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return {"type": "object"}
    if asked.json_schema is None:
        raise ApiError(
            400, "a response_format json_schema needs json_schema", "response_format.json_schema"
        )
    return asked.json_schema.definition


def _ask(fields: Sampled, prompts: list[Prompt], tokens: int, most_choices: int) -> Ask:
    n = 1 if fields.n is None else fields.n
    if n < 1:
        raise ApiError(400, f"n must be at least 1, got {n}", "n")
    if n * len(prompts) > most_choices:
        raise ApiError(
            400,
            f"this server makes {most_choices} choices a request, and {len(prompts)} prompts "
            f"times n {n} are more",
            "n",
        )
    if fields.stream_options is not None and not fields.stream:
        raise ApiError(400, "stream_options is for requests with stream true", "stream_options")
    river = fields.river
    more: dict[str, Any] = {}
    if river.max_draft_tokens is not None:
        more["max_draft_tokens"] = river.max_draft_tokens
    config = GenerationConfig(
        max_new_tokens=tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=0 if fields.top_k == -1 else fields.top_k,  # as vLLM's clients say "all"
        min_p=fields.min_p,
        repetition_penalty=fields.repetition_penalty,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        logit_bias=_bias(fields),
        json_schema=_schema(fields),
        seed=fields.seed,
        stop=fields.stop or (),
        stop_token_ids=fields.stop_token_ids or (),
        ignore_eos=fields.ignore_eos,
        mode=river.mode,
        policy=river.policy,
        tau=river.tau,
        pinned=river.pinned,
        **more,
    )
    usage = fields.stream_options is not None and fields.stream_options.include_usage
    return Ask(prompts, config, n, bool(fields.stream), usage, river.trace)


def _same(value: Any, neutral: Any) -> bool:
    """True is 1 to Python, and not here."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)


def _first_problem(error: ValidationError) -> ApiError:
    """One sentence of pydantic's list; input is not shown, it may be as long as the body."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = [str(part)[:80] for part in problem["loc"]]
    # Behind a field's own name may stand which of its types was tried.
    depth = 2 if place[:1] in (["river"], ["stream_options"], ["response_format"]) else 1
    name = ".".join(place[:depth]) or None
    if problem["type"] == "extra_forbidden":
        name = ".".join(place)
        shown = name.encode("utf-8", "backslashreplace").decode()
        return ApiError(400, f"unrecognized request argument: {shown}", shown)
    return ApiError(400, f"{name or 'the request'}: {problem['msg'].lower()[:200]}", name)
