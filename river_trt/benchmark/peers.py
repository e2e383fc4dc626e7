"""Another runtime in a process of its own, which decodes when told to.

here                                    python -m builders.peers NAME ...
  | <------- {"ready": {...}} --------------- |     builds what it needs, loads it
  | -------- {"prompt": ids, ...} ----------> |
  | <------- {"seconds": s, ...} ------------ |     one JSON object a line, both ways
"""

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from river_trt.benchmark.measure import Groups, Round
from river_trt.errors import MissingDependencyError, RiverError
from river_trt.origin import this_build

# Peers and the extras that install them. The first part of a name is the runtime.
EXTRAS = {
    "transformers": "build",
    "genai-fp32": "bench",
    "genai-int4": "bench",
    "llama.cpp-f16": "llama",
    "llama.cpp-q8_0": "llama",
    "llama.cpp-q4_0": "llama",
}
NOT_INSTALLED = 3  # exit status of a peer whose library is missing


class Peer:
    """A running peer. Batch 1; a context manager that ends the process."""

    def __init__(self, name: str, model: str, work: Path, threads: int | None) -> None:
        """Raises MissingDependencyError where it is not installed, RiverError where it fails."""
        self.name = name
        self._log = work / f"{name}.log"
        work.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "builders.peers", name, "--model", model]
        command += ["--work", str(work)]
        if threads is not None:
            command += ["--threads", str(threads)]
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        try:
            self.details: dict[str, Any] = self._read()["ready"]
        except BaseException:
            self.close()
            raise

    def run(self, groups: Groups, new_tokens: int) -> Round:
        prompts: list[Any] = [group[0] for group in groups]  # token ids
        runs = [self._ask(prompt, new_tokens) for prompt in prompts]
        steps = len(runs) * (new_tokens - 1)
        return Round(
            tokens=steps,
            steps=steps,
            seconds=sum(run["seconds"] for run in runs),
            first_token_seconds=tuple(run["first_token_seconds"] for run in runs),
            prompt_tokens=sum(map(len, prompts)),
        )

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> "Peer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, prompt: Any, new_tokens: int) -> dict[str, Any]:
        assert self._process.stdin is not None
        ids = [int(token) for token in prompt]
        self._process.stdin.write(json.dumps({"prompt": ids, "new_tokens": new_tokens}) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        status = self._process.wait()
        said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        last = said[-1] if said else f"exit status {status}"
        if status == NOT_INSTALLED:
            command = this_build().install(EXTRAS[self.name])
            raise MissingDependencyError(f"{self.name} is not installed: {command}")
        raise RiverError(f"{self.name} failed: {last[:300]} (all of it: {self._log})")
