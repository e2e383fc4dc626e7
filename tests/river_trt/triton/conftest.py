"""A tiny engine with a tokenizer, exported, and the real tritonserver over it."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import river_trt
from builders.build import BuildOptions, build
from river_trt.triton.doctor import examine, problems
from river_trt.triton.local_server import LocalServer, ServerOptions
from river_trt.triton.repository import ExportOptions, export
from river_trt.triton.settings import ModelSettings
from tests.builders.tiny_engines import TINY
from tests.builders.tiny_llama import save_tiny_llama
from tests.river_trt.conftest import VOCAB, byte_tokenizer

# The environment that scripts/setup_triton.sh makes.
PYTHON = Path(__file__).parents[3] / ".venv-triton" / "bin" / "python"
MAX_SEQ_LEN = 512
MAX_BATCH, MAX_QUEUE = 4, 40


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("triton-engine")
    changes = TINY | {
        "vocab_size": VOCAB,
        "max_position_embeddings": MAX_SEQ_LEN,
        "num_hidden_layers": 3,
    }
    save_tiny_llama(directory / "model", **changes)
    byte_tokenizer().save(str(directory / "model" / "tokenizer.json"))
    build(
        BuildOptions(
            str(directory / "model"), directory / "engine", quantiser="rtn", group_size=32, tau=0.5
        )
    )
    return directory / "engine"


@pytest.fixture(scope="session")
def settings(tiny_engine: Path) -> ModelSettings:
    return ModelSettings(
        str(tiny_engine),
        max_batch_size=MAX_BATCH,
        max_queue=MAX_QUEUE,
        max_seq_len=MAX_SEQ_LEN,
        prefill_chunk=16,
        threads=1,
    )


@pytest.fixture(scope="session")
def runtime(tiny_engine: Path, settings: ModelSettings) -> river_trt.Engine:
    """The same engine without the server."""
    return settings.load_engine(Path())


Start = Callable[[Path], AbstractContextManager[LocalServer]]


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Start:
    if not PYTHON.exists():
        pytest.skip("no .venv-triton: run scripts/setup_triton.sh first")
    for problem in problems(examine(PYTHON)):
        pytest.skip(f"tritonserver cannot run here: {problem}")
    log = tmp_path_factory.mktemp("triton-log") / "server.log"

    @contextmanager
    def start(repository: Path) -> Iterator[LocalServer]:
        options = ServerOptions(
            repository, http_port=0, grpc_port=0, metrics_port=0, log=log, python=PYTHON
        )
        with LocalServer(options) as server:
            server.wait_until_ready(60)
            yield server

    return start


@pytest.fixture(scope="session")
def server(
    start_server: Start, settings: ModelSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    """Models river_llm (layout vllm) and ensemble (layout trtllm) of the tiny engine."""
    repository = tmp_path_factory.mktemp("triton-repository")
    export(ExportOptions(settings, repository, engine_files="link"))
    batched = dataclasses.replace(settings, layout="trtllm")
    export(ExportOptions(batched, repository, name="ensemble", engine_files="reference"))
    with start_server(repository) as running:
        yield running
