"""The wheel of river-trt that an image installs: the one given, or this checkout's own."""

import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

from river_trt.errors import RiverError

CHECKOUT = Path(__file__).parents[2]
GIVE_ONE = "give one with --wheel FILE"


def put_wheel(given: Path | None, folder: Path) -> str:
    """Put a wheel into `folder` and return its name.

    Raises RiverError for a file that is no wheel of river-trt, where there is no checkout to build
    one from, or where the build fails.
    """
    if given is not None:
        _check(given)
        shutil.copyfile(given, folder / given.name)
        return given.name
    if not (CHECKOUT / "pyproject.toml").is_file():
        raise RiverError(f"river-trt was not installed from a checkout; {GIVE_ONE}")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder)]
    if find_spec("hatchling") is not None:
        command.append("--no-build-isolation")
    done = subprocess.run(  # noqa: S603 (this Python's pip)
        [*command, str(CHECKOUT)], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("river_trt-*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = done.stderr.strip().splitlines() or ["it gave no reason"]
        raise RiverError(f"pip cannot build a wheel of {CHECKOUT}: {lines[-1]}; {GIVE_ONE}")
    return wheels[0].name


def _check(path: Path) -> None:
    named = path.name.startswith("river_trt-") and path.suffix == ".whl"
    if not named or not path.is_file() or not zipfile.is_zipfile(path):
        raise RiverError(f"{path} is no wheel of river-trt (river_trt-VERSION-….whl)")
