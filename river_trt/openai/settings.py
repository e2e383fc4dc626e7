"""What `river-trt serve` is told; needs no package of the extra."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from river_trt.engine import DEFAULT_MAX_QUEUE
from river_trt.errors import RiverError

LOOPBACK = "127.0.0.1"
NAME = re.compile(r"[\w.:/@-]{1,128}")


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Checked when made. Raises RiverError naming the value and the rule.

    engines: name of a model -> engine directory; requests name one, or none where there is one.
    api_keys: one of them must come as `Authorization: Bearer KEY`; none: everyone may ask.
    cors: origins whose pages may ask from a browser; none by default.
    max_batch_size, max_queue, max_seq_len, prefill_chunk, kept_rows, reuse_river, threads, policy:
    as of river_trt.load and Engine.serve, for each engine. max_body_bytes: of a request.
    request_seconds: a request that is not done by then is ended. shutdown_seconds: what open
    requests have to end when the server is told to stop. most_choices: prompts times `n` of a
    request.
    """

    engines: dict[str, Path]
    host: str = LOOPBACK
    port: int = 8000
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    cors: tuple[str, ...] = ()
    max_batch_size: int = 8
    max_queue: int = DEFAULT_MAX_QUEUE
    max_seq_len: int | None = None
    prefill_chunk: int = 64
    kept_rows: int = 8
    reuse_river: bool = False
    threads: int | None = None
    policy: str | None = None
    max_body_bytes: int = 1 << 20
    request_seconds: float = 600.0
    shutdown_seconds: float = 30.0
    most_choices: int = 16
    log_json: bool = False
    verify: bool = True

    def __post_init__(self) -> None:
        if not self.engines:
            raise RiverError("give one engine directory, or several as --engine NAME=DIR")
        for name in self.engines:
            if not NAME.fullmatch(name):
                raise RiverError(
                    f"a model's name has letters, digits and any of . : / @ _ -, got {name!r:.80}"
                )
        if not 0 <= self.port <= 65535:
            raise RiverError(f"--port must be 0 to 65535, got {self.port}")
        for name, least in (
            ("max_batch_size", 1),
            ("max_queue", 0),
            ("kept_rows", 0),
            ("prefill_chunk", 1),
            ("max_body_bytes", 1024),
            ("most_choices", 1),
        ):
            if getattr(self, name) < least:
                option = "--" + name.replace("_", "-")
                raise RiverError(f"{option} must be at least {least}, got {getattr(self, name)}")
        for name in ("request_seconds", "shutdown_seconds"):
            if not getattr(self, name) > 0:
                option = "--" + name.replace("_", "-")
                raise RiverError(f"{option} must be above 0, got {getattr(self, name)}")
        for key in self.api_keys:
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise RiverError("an API key is printable ASCII without spaces")
