"""Where this user's compiled libraries are kept."""

import os
from pathlib import Path


def user_cache() -> Path:
    """$XDG_CACHE_HOME/river-trt, or ~/.cache/river-trt; it need not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "river-trt"
