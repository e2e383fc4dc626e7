"""The names of C++ and CUDA, as far as a pattern sees them. CONTRIBUTING.md has the whole rule."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for folder in ("plugins", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".h", ".cc", ".cpp", ".cu", ".cuh")
)
# TensorRT's: a member of its interfaces, and what it looks up in a library of plugins; CUDA's.
THEIRS = {"mImpl", "getCreators", "setLoggerFinder", "findLogger", "atomicAdd"}
FORBIDDEN = {
    "members are name_": re.compile(r"\b(m[A-Z]\w*)\b"),
    "constants are kName": re.compile(
        r"\bconstexpr [\w:<>\s]*?\b(k[A-Z]{2,}\w*|[A-Z]{2,}\w*) *[={]"
    ),
    "functions are snake_case": re.compile(r"^[\w:<>&*]+(?: const)?[ &*]+([a-z]+[A-Z]\w*)\(", re.M),
    "types are PascalCase": re.compile(
        r"^(?:struct|class|enum class) (?:alignas\(\w+\) )?(?!alignas\b)([a-z]\w*)", re.M
    ),
}


def wrong_names(source: str) -> list[str]:
    code = re.sub(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', "", source, flags=re.DOTALL)
    return [
        f"{name}: {rule}"
        for rule, pattern in FORBIDDEN.items()
        for name in pattern.findall(code)
        if name not in THEIRS and not re.match("cuda[A-Z]", name)
    ]


def test_names_are_of_one_style():
    found = {path.relative_to(ROOT).as_posix(): wrong_names(path.read_text()) for path in SOURCES}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    [
        "int mBanks;",
        "constexpr int kBATCH = 1;",
        "void requireShape(int x)\n{",
        "struct layer\n{",
        "struct alignas(64) layer\n{",
    ],
)
def test_a_planted_name_is_found(source):
    assert wrong_names(source) != []
