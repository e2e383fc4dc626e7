"""A tritonserver process on this machine, started, watched and ended with all that is its own."""

import contextlib
import json
import os
import re
import resource
import secrets
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from river_trt.errors import RiverError
from river_trt.triton.doctor import SHARED_MEMORY, require_healthy
from river_trt.triton.installation import Installation

LOOPBACK = "127.0.0.1"
HTTP_THREADS = 64
EXIT_SECONDS = 20  # the server's own limit for requests under way
# tritonserver's JSON parser recurses, some 200 bytes a bracket, on threads of this stack: with the
# usual 8 MiB, 60,000 brackets end the server. Virtual memory, used as far as a request nests.
STACK_BYTES = 256 * 2**20
# What no client needs: to unload models, map shared memory, or write logs and traces to files.
ADMIN_APIS = "model-repository,shared-memory,trace,logging"
ADMIN_HEADER = "river-trt-admin"


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Ports of 0 are chosen free. log: where the server's output goes, None for ours. python: the
    environment that has tritonserver, None for ours. admin_key: what requests to ADMIN_APIS must
    have in the header ADMIN_HEADER; None makes one up. Raises RiverError for a
    port or key out of range, or a folder that is no model repository."""

    repository: Path
    host: str = LOOPBACK
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    verbose: bool = False
    log: Path | None = None
    python: Path | None = None
    admin_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.admin_key is not None and not re.fullmatch(r"[A-Za-z0-9_-]{16,}", self.admin_key):
            raise RiverError("an admin key has at least 16 letters, digits, '-' and '_'")
        if not any(self.repository.glob("*/config.pbtxt")):
            raise RiverError(
                f"{self.repository} is no model repository: it has no */config.pbtxt; "
                "make one with `river-trt triton export`"
            )
        for name in ("http_port", "grpc_port", "metrics_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise RiverError(f"{name} must be in 0..65535, got {getattr(self, name)}")


class LocalServer:
    """Use inside `with`: leaving it ends the server, its stubs and its shared memory."""

    def __init__(self, options: ServerOptions) -> None:
        """Raises RiverError when the doctor finds a problem, or a port is taken."""
        self._installation = require_healthy(options.python)
        self._options = options
        asked = (options.http_port, options.grpc_port, options.metrics_port)
        self.http_port, self.grpc_port, self.metrics_port = _free_ports(options.host, asked)
        self.shared_memory_prefix = f"river_trt_{os.getpid()}_{self.http_port}_"
        self._admin_key = options.admin_key or secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def admin_headers(self) -> dict[str, str]:
        """Of a request to ADMIN_APIS over HTTP."""
        return {ADMIN_HEADER: self._admin_key}

    @property
    def url(self) -> str:
        return f"http://{self._options.host}:{self.http_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> "LocalServer":
        self._files = contextlib.ExitStack()
        folder = Path(self._files.enter_context(tempfile.TemporaryDirectory(prefix="river-trt-")))
        self.folder = folder
        _link_backend(self._installation, folder)
        log: IO[bytes] | None = None
        if self._options.log is not None:
            log = self._files.enter_context(self._options.log.open("ab"))
        self._process = subprocess.Popen(  # noqa: S603
            [*_with_stack(STACK_BYTES), *self._command(folder)],
            env=self._installation.environment(),
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that a terminal's ^C reaches us alone
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_until_ready(self, timeout: float) -> None:
        """Until the server answers and every model has been tried; its models may be unavailable.

        timeout: seconds. Raises RiverError when it ends or does not answer in time.
        """
        assert self._process is not None
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RiverError(
                    f"tritonserver ended with code {self._process.returncode} before it was ready"
                )
            with contextlib.suppress(OSError):
                health = f"{self.url}/v2/health/live"
                urllib.request.urlopen(health, timeout=1).close()  # noqa: S310
                return
            time.sleep(0.05)
        raise RiverError(f"tritonserver did not answer within {timeout:g} seconds")

    def index(self) -> list[dict[str, str]]:
        """Of each model name, state, and the reason of a state that is not READY."""
        entries: list[dict[str, str]] = json.loads(self._administer("index"))
        return entries

    def manage(self, model: str, action: str) -> None:
        """action: load or unload; urllib.error.HTTPError when the server cannot."""
        self._administer(f"models/{model}/{action}")

    def _administer(self, path: str) -> bytes:
        url = f"{self.url}/v2/repository/{path}"
        request = urllib.request.Request(url, b"{}", self.admin_headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310 (a load is long)
            reply: bytes = answer.read()
        return reply

    def wait(self, timeout: float | None = None) -> int | None:
        """Until it ends by itself: its exit code; None when the time is over before."""
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Let requests under way end, for EXIT_SECONDS at most."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(EXIT_SECONDS + 5)
        with contextlib.suppress(ProcessLookupError):  # stubs of a server that did not end well
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for segment in self.shared_memory():
            segment.unlink(missing_ok=True)
        self._files.close()

    def shared_memory(self) -> Iterable[Path]:
        """Segments that the server has left or still uses."""
        return list(SHARED_MEMORY.glob(f"{self.shared_memory_prefix}*"))

    def _command(self, backends: Path) -> list[str]:
        host = self._options.host
        return [
            str(self._installation.server),
            f"--model-repository={self._options.repository.resolve()}",
            f"--backend-directory={backends}",
            f"--backend-config=python,shm-region-prefix-name={self.shared_memory_prefix}",
            f"--http-address={host}",
            f"--http-port={self.http_port}",
            # A connection stays with its thread, and waits while that parses another one's body.
            f"--http-thread-count={HTTP_THREADS}",
            f"--grpc-address={host}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-address={host}",
            f"--metrics-port={self.metrics_port}",
            "--allow-gpu-metrics=false",
            # So that a model whose worker died can unload itself; clients cannot, see ADMIN_APIS.
            "--model-control-mode=explicit",
            "--load-model=*",
            f"--http-restricted-api={ADMIN_APIS}:{ADMIN_HEADER}={self._admin_key}",
            f"--grpc-restricted-protocol={ADMIN_APIS}:{ADMIN_HEADER}={self._admin_key}",
            "--exit-on-error=false",  # a broken model leaves the others, and its reason, to see
            f"--exit-timeout-secs={EXIT_SECONDS}",
            f"--log-verbose={int(self._options.verbose)}",
        ]


def _with_stack(size: int) -> list[str]:
    """What runs a command with threads of `size` bytes of stack, or what the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_STACK)
    size = size if hard == resource.RLIM_INFINITY else min(size, hard)
    return ["sh", "-c", f'ulimit -S -s {size // 1024} && exec "$@"', "sh"]


def _link_backend(installation: Installation, folder: Path) -> None:
    """The stub beside the backend. A link, because the stub finds its libraries relative to it."""
    (folder / "python").mkdir()
    for file in (*installation.backend_files, installation.stub):
        (folder / "python" / file.name).symlink_to(file)


def _free_ports(host: str, asked: tuple[int, ...]) -> list[int]:
    with contextlib.ExitStack() as stack:
        ports = []
        for port in asked:
            listener = stack.enter_context(socket.socket())
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, port))
            except OSError as error:
                raise RiverError(f"{host}:{port} cannot be used: {error.strerror}") from error
            ports.append(listener.getsockname()[1])
        return ports
