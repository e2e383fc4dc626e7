"""A server on loopback over the stand-in engine, and OpenAI's own client."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openai
import pytest
import uvicorn

from river_trt.openai.app import make_app
from river_trt.openai.server import open_socket
from river_trt.openai.settings import ServeSettings
from river_trt.text import Tokenizer
from tests.river_trt.conftest import byte_tokenizer

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}"
    "{% if add_generation_prompt %}a:{% endif %}{{ shout|default('') }}"
)


@pytest.fixture
def make_chat_engine(make_engine) -> Callable[..., Any]:
    def make(**options: Any) -> Any:
        engine = make_engine(**({"max_batch_size": 4, "max_seq_len": 96} | options))
        tokenizer = Tokenizer(byte_tokenizer(), {"default": TEMPLATE})
        engine.tokenizer = tokenizer
        engine.prompts = type(engine.prompts)(260, engine.max_seq_len, tokenizer)
        return engine

    return make


@pytest.fixture
def start(make_chat_engine) -> Iterator[Callable[..., SimpleNamespace]]:
    """start(**settings) -> url, engines, app of a running server."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def run(names: tuple[str, ...] = ("tiny",), **changes: Any) -> SimpleNamespace:
        engines = {name: make_chat_engine() for name in names}
        given = {"port": 0, "max_batch_size": 4} | changes
        settings = ServeSettings({name: Path(name) for name in names}, **given)
        app = make_app(settings, engines)
        bound = open_socket(settings)
        config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="on")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        running.append((server, thread))
        port = bound.getsockname()[1]
        return SimpleNamespace(
            url=f"http://127.0.0.1:{port}", port=port, engines=engines, server=server
        )

    yield run
    for server, thread in running:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def served(start) -> SimpleNamespace:
    found = start()
    found.client = client_of(found.url)
    return found


def client_of(url: str, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=30)
