"""The fields of requests, as OpenAI's API has them, and River's own.

A field that is not here is refused by name, as OpenAI does it. IGNORED ones are of other services
and change no text. Those of NEUTRAL are known and not built: they are refused unless they hold the
value that changes nothing.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

IGNORED = (
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
    *("parallel_tool_calls", "verbosity"),
)
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "suffix": (None, ""),
    "best_of": (None, 1),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
}


class Fields(BaseModel):
    """Fields of a JSON object, which may have no others."""

    model_config = ConfigDict(extra="forbid")


def _number(value: Any) -> Any:
    """tau as numbers or as the words that JSON has no number for."""
    words = {"inf": float("inf"), "-inf": float("-inf")}
    if isinstance(value, list):
        return [words.get(item, item) if isinstance(item, str) else item for item in value]
    return words.get(value, value) if isinstance(value, str) else value


class RiverFields(Fields):
    """`"river": {...}` of a request; what is left out is the engine's own."""

    mode: Literal["river", "lossless", "full"] = "river"
    policy: str | None = None  # one of the engine's by name
    tau: Annotated[float | list[float] | None, BeforeValidator(_number)] = None
    pinned: list[int] | None = None
    max_draft_tokens: int | None = None
    trace: bool = False  # each token's exit layer in the answer


class StreamOptions(Fields):
    """`stream_options` of a streamed request."""

    include_usage: bool = False
    include_obfuscation: bool = False  # OpenAI's padding against listeners; without effect
    continuous_usage_stats: bool = False  # vLLM's; without effect: usage comes at the end


class JsonSchema(Fields):
    """`json_schema` of a response_format."""

    name: str = ""
    description: str | None = None
    definition: Annotated[dict[str, Any], Field(alias="schema")] = Field(default_factory=dict)
    strict: bool | None = None  # the text is always held to its schema


class ResponseFormat(Fields):
    """`response_format`: a text, any JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Sampled(Fields):
    """What completions and chats have in common. None is the model's own value."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    response_format: ResponseFormat | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    river: RiverFields = Field(default_factory=RiverFields)


class CompletionFields(Sampled):
    """POST /v1/completions."""

    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: int | None = None  # best tokens of each place
    echo: bool | None = None  # the prompt stands before the text


class ToolFunction(Fields):
    """What a tool is called by, and what the template shows of it."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None  # where a call is a must, arguments are always held to the schema


class Tool(Fields):
    """A tool that the model may call; the only type is "function"."""

    type: Literal["function"]
    function: ToolFunction


class NamedFunction(Fields):
    """`function` of a tool_choice."""

    name: str


class NamedTool(Fields):
    """A tool_choice that names the one tool to call."""

    type: Literal["function"]
    function: NamedFunction


class ChatFields(Sampled):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]]
    tools: Annotated[list[Tool], Field(max_length=128)] = Field(default_factory=list)
    tool_choice: Literal["none", "auto", "required"] | NamedTool = "auto"
    logprobs: bool | None = None
    top_logprobs: int | None = None
    max_completion_tokens: int | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class TokenizeFields(Fields):
    """POST /tokenize: a text, or a conversation."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)


class DetokenizeFields(Fields):
    """POST /detokenize."""

    model: str | None = None
    tokens: list[int]
