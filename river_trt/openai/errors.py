"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from river_trt.errors import RiverError
from river_trt.faults import InternalError, contained
from river_trt.serving import RejectedError, ServerClosedError

RETRY_AFTER_S = 1
SAME_NAME = (  # of a GenerationConfig's field as a client knows it
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "logit_bias", "seed", "stop", "ignore_eos"),
)


@dataclass(slots=True)
class ApiError(Exception):
    """What a route answers in place of its result."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None

    @property
    def kind(self) -> str:
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        return kinds.get(
            self.status, "server_error" if self.status >= 500 else "invalid_request_error"
        )

    @property
    def body(self) -> dict[str, Any]:
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": str(RETRY_AFTER_S)} if self.status in (429, 503) else {}

    def response(self) -> JSONResponse:
        """Status, headers and body."""
        return JSONResponse(self.body, self.status, self.headers)


def as_api_error(error: BaseException) -> ApiError:
    """Of whatever a request raised; what nobody foresaw is logged with its traceback."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, TimeoutError):
        return ApiError(408, "the request took longer than this server allows", code="timeout")
    answer: RiverError = contained(error)
    if isinstance(answer, RejectedError):
        return ApiError(429, str(answer), code="server_full")
    if isinstance(answer, ServerClosedError):
        return ApiError(503, str(answer), code="server_closed")
    if isinstance(answer, InternalError):
        return ApiError(500, str(answer), code="internal_error")
    return ApiError(400, str(answer), _named(str(answer)))


def _named(message: str) -> str | None:
    """The field that a sentence of GenerationConfig begins with, by the name a client knows."""
    first = message.split(" ", 1)[0]
    if first == "max_new_tokens":
        return "max_tokens"
    if first in ("tau", "pinned", "mode", "policy", "max_draft_tokens"):
        return f"river.{first}"
    if first in SAME_NAME:
        return first
    if first == "json_schema":
        return "response_format"
    if "logit_bias" in message:
        return "logit_bias"
    return "prompt" if message.startswith("the prompt ") else None
