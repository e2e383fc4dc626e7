"""A Python environment that can run tritonserver: the wheel, the runtime, and what fits them."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from river_trt.errors import MissingDependencyError, RiverError

INSTALL = "pip install --no-deps nvidia-pytriton==0.7.0"
# Run by the environment's own Python. The wheel is found but not imported: we use its files only.
PROBE = """
import json, sys, sysconfig
from importlib.util import find_spec
spec = find_spec("pytriton")
problem = numpy = None
try:
    import numpy, onnxruntime, tokenizers, river_trt
except ImportError as error:
    problem = str(error)
print(json.dumps({
    "version": "%d.%d" % sys.version_info[:2],
    "wheel": spec.submodule_search_locations[0] if spec else None,
    "library_folder": sysconfig.get_config_var("LIBDIR"),
    "library": sysconfig.get_config_var("INSTSONAME"),
    "numpy": numpy.__version__ if numpy else None,
    "problem": problem,
}))
"""


@dataclass(frozen=True, slots=True)
class Installation:
    """python: the environment's interpreter. problem: why it cannot run river-trt, if so."""

    python: Path
    version: str  # of Python, "3.11"
    root: Path  # pytriton/tritonserver in its site-packages
    library: Path  # its libpython, if it has one of its own
    numpy: str | None
    problem: str | None

    @classmethod
    def find(cls, python: Path | None = None) -> "Installation":
        """python: None is the one that runs us.

        Raises RiverError for a file that is no Python, MissingDependencyError without the wheel.
        """
        python = Path(sys.executable) if python is None else python
        try:
            run = subprocess.run(  # noqa: S603
                [str(python), "-c", PROBE], capture_output=True, text=True, check=True
            )
            found = json.loads(run.stdout.splitlines()[-1])
        except (OSError, subprocess.CalledProcessError, ValueError, IndexError) as error:
            raise RiverError(f"{python} does not run as a Python interpreter: {error}") from error
        if found["wheel"] is None:
            raise MissingDependencyError(
                f"tritonserver is not installed for {python}; `{INSTALL}` brings it"
            )
        return cls(
            python.absolute(),
            found["version"],
            Path(found["wheel"]) / "tritonserver",
            Path(found["library_folder"] or "") / (found["library"] or ""),
            found["numpy"],
            found["problem"],
        )

    @property
    def server(self) -> Path:
        return self.root / "bin" / "tritonserver"

    @property
    def stub(self) -> Path:
        """The process that runs a Python model; built for one version of Python."""
        return self.root / "python_backend_stubs" / self.version / "triton_python_backend_stub"

    @property
    def backend_files(self) -> list[Path]:
        folder = self.root / "backends" / "python"
        return [folder / "libtriton_python.so", folder / "triton_python_backend_utils.py"]

    def environment(self) -> dict[str, str]:
        """For the server: its Python first on PATH, and that Python's own libpython."""
        paths = [str(self.python.parent), os.environ.get("PATH", os.defpath)]
        environment = {**os.environ, "PATH": os.pathsep.join(paths)}
        if self.library.is_file():
            libraries = [str(self.library.parent), os.environ.get("LD_LIBRARY_PATH", "")]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
        return environment

    def missing_libraries(self, program: Path) -> list[str]:
        """Shared libraries that the loader would not find."""
        run = subprocess.run(  # noqa: S603
            ["ldd", str(program)],  # noqa: S607
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        return [line.split()[0] for line in run.stdout.splitlines() if "not found" in line]
