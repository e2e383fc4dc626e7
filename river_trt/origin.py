"""How this build was installed, and so what to type for an extra of it or a newer one.

pip notes where a package came from (PEP 610, direct_url.json): a checkout, a file, a repository;
nothing where an index gave it.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from shlex import quote
from typing import Any
from urllib.parse import unquote, urlparse

NAME = "river-trt"
CHECKOUT = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Origin:
    """What pip was given. All empty: the name, at an index."""

    checkout: Path | None = None  # a folder with pyproject.toml
    editable: bool = False
    url: str | None = None  # of a wheel, an archive or a repository (git+https://...)

    @classmethod
    def of(cls, direct_url: dict[str, Any] | None) -> "Origin":
        """From the object of PEP 610, None where there is none."""
        if direct_url is None:
            return cls()
        url = direct_url["url"]
        if "dir_info" in direct_url:
            editable = direct_url["dir_info"].get("editable", False)
            return cls(checkout=Path(unquote(urlparse(url).path)), editable=editable)
        vcs = direct_url.get("vcs_info")
        return cls(url=f"{vcs['vcs']}+{url}" if vcs else url)

    def install(self, extra: str) -> str:
        """The command that installs what an extra needs."""
        if self.checkout is not None:
            return f'pip install {"-e " if self.editable else ""}"{self.checkout}[{extra}]"'
        where = "" if self.url is None else f" @ {self.url}"
        return f'pip install "{NAME}[{extra}]{where}"'

    def upgrade(self) -> str:
        """What brings a newer version, to follow "upgrade with"."""
        if self.checkout is not None:
            folder = quote(str(self.checkout))
            pull = f"git -C {folder} pull"
            return f"`{pull}`" if self.editable else f"`{pull} && pip install {folder}`"
        if self.url is None:
            return f"`pip install -U {NAME}`"
        if "+" in urlparse(self.url).scheme:
            return f'`pip install -U "{NAME} @ {self.url}"`'
        return f"`pip install` and a newer file than {self.url.rpartition('/')[2]}"


@cache
def this_build() -> Origin:
    """The river-trt that runs."""
    try:
        text = distribution(NAME).read_text("direct_url.json")
    except PackageNotFoundError:  # run from its sources, without pip
        return Origin(checkout=CHECKOUT, editable=True)
    return Origin.of(None if text is None else json.loads(text))
