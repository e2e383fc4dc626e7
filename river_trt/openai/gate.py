"""What stands before every route: keys, body sizes, and a line of log for each request."""

import hmac
import json
import logging
import time
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from river_trt.openai.errors import ApiError, as_api_error

OPEN_PATHS = ("/", "/health", "/ready")  # a page without secrets; probes have no keys
log = logging.getLogger("river_trt.serve")


class Gate:
    """An ASGI application around another: answers what may not pass, and every error."""

    def __init__(
        self, app: ASGIApp, *, api_keys: Sequence[str], max_body_bytes: int, log_json: bool
    ) -> None:
        self._app, self._most, self._log_json = app, max_body_bytes, log_json
        self._keys = [key.encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        scope.setdefault("state", {})["log"] = {}

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            headers = dict(scope["headers"])
            self._check_key(scope["path"], headers)
            limited = self._limited(headers, receive)
            await self._app(scope, limited, noting)
        except BaseException as error:
            answer = as_api_error(error)  # raises again what ends the process
            if status == 0:
                status = answer.status
                await answer.response()(scope, receive, send)
        finally:
            self._write(scope, status, time.perf_counter() - started)

    def _check_key(self, path: str, headers: dict[bytes, bytes]) -> None:
        if not self._keys or path in OPEN_PATHS:
            return
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        # All are compared, each in constant time.
        right = [hmac.compare_digest(given, key) for key in self._keys]
        if kind.lower() != b"bearer" or not any(right):
            raise ApiError(401, "give one of this server's API keys: Authorization: Bearer KEY")

    def _limited(self, headers: dict[bytes, bytes], receive: Receive) -> Receive:
        """`receive` that refuses what is longer than it may be, announced or not."""
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > self._most:
            raise self._too_large()
        received = 0

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._most:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body may have {self._most} bytes", code="body_too_large")

    def _write(self, scope: Scope, status: int, seconds: float) -> None:
        client = scope.get("client")
        line: dict[str, Any] = {
            "client": client[0] if client else "-",
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status,
            "seconds": round(seconds, 4),
        }
        line |= scope["state"]["log"]
        if self._log_json:
            log.info(json.dumps(line))
            return
        text = " ".join(f"{name}={value}" for name, value in line.items())
        log.info(text.encode("unicode_escape").decode())
