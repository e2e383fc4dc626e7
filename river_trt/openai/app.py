"""The application of `river-trt serve`: engines, routes, and what stands before them."""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

import river_trt
from river_trt.engine import Engine
from river_trt.errors import RiverError
from river_trt.faults import describe
from river_trt.openai.errors import ApiError, as_api_error
from river_trt.openai.gate import Gate
from river_trt.openai.metrics import HttpMetrics
from river_trt.openai.routes import Model, Routes
from river_trt.openai.settings import ServeSettings


def make_app(settings: ServeSettings, engines: Mapping[str, Engine]) -> ASGIApp:
    """An ASGI application over loaded engines, by name; it opens them when it starts.

    While it runs, each engine generates for it alone. Raises RiverError for an engine whose
    backend forms batches by itself.
    """
    servers = {
        name: engine.serve(
            max_batch_size=settings.max_batch_size,
            max_queue=settings.max_queue,
            reuses_river=settings.reuse_river,
        )
        for name, engine in engines.items()
    }
    created = int(time.time())
    models = {name: Model(name, engines[name], servers[name], created) for name in engines}
    metrics = HttpMetrics(servers, settings.max_batch_size)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with AsyncExitStack() as stack:
            for server in servers.values():
                await stack.enter_async_context(server)
            yield

    app = FastAPI(
        title="river-trt",
        version=river_trt.__version__,
        lifespan=lifespan,
        docs_url=None,  # its page would load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(Routes(settings, models, metrics).router)
    for foreseen in (ApiError, RiverError, TimeoutError):
        app.add_exception_handler(foreseen, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(Exception, _answer_fault)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    return Gate(
        app,
        api_keys=settings.api_keys,
        max_body_bytes=settings.max_body_bytes,
        log_json=settings.log_json,
    )


async def _answer_error(request: Request, error: Exception) -> JSONResponse:
    return as_api_error(error).response()


async def _answer_fault(request: Request, error: Exception) -> JSONResponse:
    """It is raised again behind this answer, and the gate logs it."""
    return ApiError(500, f"an internal error ended this request: {describe(error)}").response()


async def _answer_http_error(request: Request, error: Exception) -> JSONResponse:
    """A path or method that is not there."""
    assert isinstance(error, HTTPException)
    answer = ApiError(
        error.status_code, f"{request.method} {request.url.path:.200}: {error.detail}"
    )
    return JSONResponse(answer.body, error.status_code, error.headers)
