"""Where the wheel nvidia-pytriton put tritonserver, and what it needs to run here."""

import os
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from river_trt.errors import MissingDependencyError

INSTALL = "pip install --no-deps nvidia-pytriton==0.7.0"
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class Installation:
    root: Path  # pytriton/tritonserver in site-packages

    @classmethod
    def find(cls) -> "Installation":
        """Raises MissingDependencyError without the wheel. Does not import it: we use its files."""
        spec = find_spec("pytriton")
        if spec is None or not spec.submodule_search_locations:
            raise MissingDependencyError(f"tritonserver is not installed; `{INSTALL}` brings it")
        return cls(Path(spec.submodule_search_locations[0]) / "tritonserver")

    @property
    def server(self) -> Path:
        return self.root / "bin" / "tritonserver"

    @property
    def stub(self) -> Path:
        """The process that runs a Python model; built for one version of Python."""
        return self.root / "python_backend_stubs" / PYTHON_VERSION / "triton_python_backend_stub"

    @property
    def backend_files(self) -> list[Path]:
        folder = self.root / "backends" / "python"
        return [folder / "libtriton_python.so", folder / "triton_python_backend_utils.py"]

    def environment(self) -> dict[str, str]:
        """For the server: this Python first on PATH, and its own libpython where it has one."""
        paths = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
        environment = {**os.environ, "PATH": os.pathsep.join(paths)}
        folder = sysconfig.get_config_var("LIBDIR")
        library = sysconfig.get_config_var("INSTSONAME")
        if folder and library and (Path(folder) / library).exists():
            old = os.environ.get("LD_LIBRARY_PATH")
            environment["LD_LIBRARY_PATH"] = os.pathsep.join([folder, *([old] if old else [])])
        return environment

    def missing_libraries(self, program: Path) -> list[str]:
        """Shared libraries that the loader would not find."""
        run = subprocess.run(
            ["ldd", str(program)],  # noqa: S607
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        return [line.split()[0] for line in run.stdout.splitlines() if "not found" in line]
