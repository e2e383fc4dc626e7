"""TensorRT's progress and log messages, as this project shows them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STEPS = 100


@dataclass(slots=True)
class Phase:
    parent: str | None
    steps: int
    done: int = 0


class PhaseTree:
    """Nested phases as one fraction that only grows."""

    def __init__(self, report: Callable[[int, int], None]) -> None:
        self._report = report
        self._phases: dict[str, Phase] = {}
        self._shown = -1

    def start(self, name: str, parent: str | None, steps: int) -> None:
        self._phases[name] = Phase(parent, max(1, steps))

    def step(self, name: str) -> None:
        if name in self._phases:
            self._phases[name].done += 1
            self._show()

    def finish(self, name: str) -> None:
        """A phase that ends is a whole step of its parent only when TensorRT says so."""
        self._phases.pop(name, None)

    def fraction(self, name: str | None = None) -> float:
        """Of the phase, its own steps and what its children have done of the current one."""
        children = [child for child, phase in self._phases.items() if phase.parent == name]
        current = max((self.fraction(child) for child in children), default=0.0)
        if name is None:
            return current
        phase = self._phases[name]
        return min(1.0, (phase.done + current) / phase.steps)

    def _show(self) -> None:
        done = int(STEPS * self.fraction())
        if done > self._shown:
            self._shown = done
            self._report(done, STEPS)


def progress_monitor(trt: Any, report: Callable[[int, int], None]) -> Any:
    """An IProgressMonitor that reports hundredths of the build."""
    tree = PhaseTree(report)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # a class of the given module
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tree.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            tree.step(phase_name)
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            tree.finish(phase_name)

    return Monitor()


def file_logger(trt: Any, path: Path) -> Any:
    """An ILogger that writes warnings and errors to a file, whole lines at once.

    Unbuffered: an abort of TensorRT takes this process along, and the last line says why.
    """
    file = path.open("a", encoding="utf-8", buffering=1)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.INFO:
                file.write(f"{severity.name}: {message}\n")

    return Logger()
