"""What the pages point at is there: links, anchors, files, modules and sections.

The pages are README.md, CONTRIBUTING.md, CHANGELOG.md and docs/. Source comments that name a page,
or a section of the design, are held to the same.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
SOURCES = sorted(
    path
    for folder in ("river_trt", "builders", "scripts", "plugins", "engines", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".h", ".cc", ".cpp", ".cu", ".cuh", ".sh", ".toml", ".cmake")
    and path != Path(__file__)
)
FOLDERS = "river_trt|builders|plugins|engines|scripts|tests|docs"

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
# plugins/kernels/*.cuh and builders/{a,b}.py are patterns; a trailing slash is a folder.
PATH = re.compile(rf"(?<![\w./~-])(?:{FOLDERS})/[\w./*-]*[\w*/]")
# A file without its folder, of a kind that only the repository has.
FILE_NAME = re.compile(r"(?<![\w./*<~{}-])[\w-]+\.(?:py|cuh|cu|cc|cpp|h|sh)\b(?![.(/])")
PAGE_NAME = re.compile(r"(?<![\w./<~{}-])[\w-]+\.md\b")
MODULE = re.compile(r"`((?:river_trt|builders|scripts)(?:\.\w+)+)")
SECTION = re.compile(r"\bdesign(?:\.md)?, sections? (\d+)")
# Another project, and files that a command writes.
ELSEWHERE = {"llama.cpp", "run.sh", "gpu_check.md"}


def links(page: Path) -> Iterator[str]:
    yield from LINK.findall(CODE_BLOCK.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of the headings."""
    headings = HEADING.findall(CODE_BLOCK.sub("", page.read_text(encoding="utf-8")))
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)
    return set(plain)


def dead_links(page: Path) -> list[str]:
    dead = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


def dead_paths(text: str, beside: Path) -> list[str]:
    """Paths, file names and page names in a text that are nowhere in the repository.

    beside: the folder of the page, for names of other pages.
    """
    text = re.sub(r"\b(NAME|ISA)\b|(?<=_)ISA\b", "*", text)  # the reader's choice
    paths = [path for path in PATH.findall(text) if not any(_matches(path))]
    names = [
        name
        for name in FILE_NAME.findall(text)
        if name not in ELSEWHERE and name not in _file_names()
    ]
    pages = [
        name
        for name in PAGE_NAME.findall(text)
        if name not in ELSEWHERE
        and not any((folder / name).exists() for folder in (beside, ROOT, ROOT / "docs"))
    ]
    return [*paths, *names, *pages]


def _matches(path: str) -> Iterator[Path]:
    yield from ROOT.glob(path.rstrip("/"))
    if path.startswith("engines/"):
        return
    yield from ROOT.glob(f"{path.rstrip('/')}.*")  # a module without its ending


def _file_names() -> set[str]:
    return {path.name for path in [*SOURCES, *ROOT.glob("*.py")]} | {Path(__file__).name}


def dead_modules(text: str) -> list[str]:
    """Dotted names whose module is not there, or whose module does not say the next name."""
    return [name for name in MODULE.findall(text) if not _resolves(name.split("."))]


def _resolves(parts: list[str]) -> bool:
    place = ROOT
    for index, part in enumerate(parts):
        if (place / part).is_dir():
            place = place / part
        elif (place / f"{part}.py").is_file():
            rest = parts[index + 1 :]
            return not rest or _says(place / f"{part}.py", rest[0])
        else:
            return _says(place / "__init__.py", part)
    return True


def _says(file: Path, name: str) -> bool:
    return (
        file.is_file() and re.search(rf"\b{name}\b", file.read_text(encoding="utf-8")) is not None
    )


def dead_sections(text: str) -> list[str]:
    known = re.findall(r"^## (\d+)\. ", (ROOT / "docs/design.md").read_text("utf-8"), re.MULTILINE)
    return [f"section {number}" for number in SECTION.findall(text) if number not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_points_at_exists(page):
    text = page.read_text(encoding="utf-8")
    found = [*dead_links(page), *dead_sections(text)]
    if page.name != "CHANGELOG.md":  # which may name what is gone
        found += [*dead_paths(text, page.parent), *dead_modules(text)]
    assert found == []


def test_pages_and_sections_that_the_source_names_exist():
    dead = {}
    for source in SOURCES:
        text = source.read_text(encoding="utf-8", errors="replace")
        pages = [
            name for name in re.findall(r"\bdocs/[\w/-]+\.md", text) if not (ROOT / name).exists()
        ]
        if found := pages + dead_sections(text):
            dead[source.relative_to(ROOT).as_posix()] = found
    assert dead == {}


def test_every_page_is_reached_from_the_index():
    reached, new = {ROOT / "README.md"}, {ROOT / "docs/README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        targets = {(page.parent / link.partition("#")[0]).resolve() for link in links(page)}
        new |= {t for t in targets if t.suffix == ".md" and t.exists()} - reached
    assert set(PAGES) - reached == set()


@pytest.mark.parametrize(
    "text",
    [
        "see `builders/kv_strategies.py`",
        "measurements-serving.md has it",
        "`plugins/kernels/no_such_*.cuh`",
        "the loop is in no_such_loop.py",
        "`tests/no_such_folder/`",
    ],
)
def test_a_planted_dead_path_is_found(text):
    assert dead_paths(text, ROOT / "docs") != []


def test_a_planted_dead_module_or_section_is_found():
    assert dead_modules("`builders.kv_strategies.run`") and dead_modules("`river_trt.no_such`")
    assert dead_modules("`river_trt.load` and `builders.families.base.ModelConfig`") == []
    assert dead_sections("(design, section 99)") and not dead_sections("design, section 2")


def test_a_planted_dead_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A heading\n[a](#a-heading) [b](#none) [c](none.md) [d](https://e.org/x)\n")
    assert dead_links(page) == ["#none", "none.md"]
