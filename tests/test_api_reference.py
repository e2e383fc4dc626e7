"""Public names say what they are, and stand in the reference. scripts/api_reference.py says what is
public."""

import ast
import html
import importlib.util
import inspect
import re
from collections import Counter
from pathlib import Path

import pytest

from scripts.api_reference import Function, Public, module_names, public_names, write

ROOT = Path(__file__).parents[1]
PUBLIC = list(public_names())
ERRORS = {"RiverError", "EngineError", "CheckpointError", "MissingDependencyError"}
# A method that does what a protocol or base says is described there, once.
DESCRIBED = {p.name.partition(".")[2] for p in PUBLIC if p.owner is not None and p.docstring}
# Of these an argument or a field must say what it counts in.
MEASURES = re.compile(r"timeout|interval|delay|duration|latency|bandwidth|memory|budget")
UNITS = re.compile(r"second|byte|token|layer|slot|GiB|MiB|\bms\b|/s\b")


def problems(public: Public) -> list[str]:
    text = public.docstring + (public.owner.docstring if public.owner is not None else "")
    found = []
    if not public.docstring and not _needs_none(public):
        found.append("has no docstring")
    raised = _raised(public.node) - {error for error in ERRORS if error in text}
    if raised and not re.search(r"[Rr]aise|refuse|RiverError", text):  # the family's name will do
        found.append(f"does not say that it raises {', '.join(sorted(raised))}")
    for name, annotation in _arguments(public.node):
        said = text + public.comments.get(name, "")
        if re.search(r"\bndarray\b|\btorch\.Tensor\b", annotation) and "[" not in said:
            found.append(f"does not say the shape of {name}")
        if (
            MEASURES.search(name)
            and annotation in ("int", "float")
            and not UNITS.search(name + said)
        ):
            found.append(f"does not say what {name} counts in")
    return found


def _needs_none(public: Public) -> bool:
    """Properties, whose name and type say it, and methods that are described elsewhere."""
    decorators = {ast.unparse(d).rpartition(".")[2] for d in public.node.decorator_list}
    is_property = bool(decorators & {"property", "cached_property"})
    return public.owner is not None and (is_property or public.name.partition(".")[2] in DESCRIBED)


def _raised(node: ast.ClassDef | Function) -> set[str]:
    """Errors for users that a function raises itself, or a class when it is made."""
    if isinstance(node, ast.ClassDef):
        made = ("__init__", "__post_init__")
        inner = [n for n in node.body if isinstance(n, Function) and n.name in made]
        said = " ".join(ast.get_docstring(n) or "" for n in inner)
        return set().union(*(_raised(n) for n in inner)) if "Error" not in said else set()
    names = set()
    for inner_node in ast.walk(node):
        if isinstance(inner_node, ast.Raise) and isinstance(inner_node.exc, ast.Call):
            names.add(ast.unparse(inner_node.exc.func).rpartition(".")[2])
    return names & ERRORS


def _arguments(node: ast.ClassDef | Function) -> list[tuple[str, str]]:
    if isinstance(node, ast.ClassDef):
        fields = [field for field in node.body if isinstance(field, ast.AnnAssign)]
        return [(ast.unparse(f.target), ast.unparse(f.annotation)) for f in fields]
    arguments = [*node.args.args, *node.args.kwonlyargs]
    return [(a.arg, ast.unparse(a.annotation)) for a in arguments if a.annotation is not None]


def test_public_names_say_what_they_are():
    """What, and where they apply: shapes of arrays, units of measures, errors."""
    found = {f"{p.module}.{p.name}": problems(p) for p in PUBLIC}
    assert {name: said for name, said in found.items() if said} == {}


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def f(): pass", "has no docstring"),
        ("def f(x: np.ndarray):\n    'Doubles.'", "does not say the shape of x"),
        ("def f(timeout: float):\n    'Waits.'", "does not say what timeout counts in"),
        ("def f():\n    'Opens.'\n    raise RiverError('no')", "does not say that it raises"),
        ("class C:\n    'A box.'\n    data: np.ndarray", "does not say the shape of data"),
    ],
)
def test_a_planted_gap_is_found(source, problem):
    node = ast.parse(source).body[0]
    assert isinstance(node, ast.ClassDef | Function)
    (found,) = problems(Public("river_trt.planted", node.name, node, {}))
    assert found.startswith(problem)


def test_every_public_name_stands_in_the_reference(tmp_path: Path):
    if importlib.util.find_spec("pdoc") is None:
        pytest.skip("pdoc is not installed (extra `docs`)")
    write(tmp_path)
    missing = Counter()
    for module in module_names():
        page = tmp_path.joinpath(*module.split(".")).with_suffix(".html")
        text = page.read_text(encoding="utf-8")
        names = [p.name for p in PUBLIC if p.module == module]
        missing[module] = sum(f'id="{name}"' not in text for name in names)
    assert +missing == Counter()
    first = (tmp_path / "river_trt.html").read_text(encoding="utf-8")
    assert all(f'href="{"/".join(name.split("."))}.html"' in first for name in module_names()[1:])
    step = html.unescape((tmp_path / "river_trt/backends/base.html").read_text(encoding="utf-8"))
    assert "[rows, seq] int64" in step, "comments of fields are part of the reference"


def test_names_of_builders_that_pages_give_say_what_they_are():
    """The reference is of river_trt; of builders it is these that a reader is sent to."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    found = set(re.findall(r"`builders((?:\.\w+)+)", text))
    assert {".report.ReportData", ".report.write_report"} <= found
    for dotted in found:
        parts = ["builders", *dotted.split(".")[1:]]
        module = importlib.import_module(".".join(parts[:-1]))
        thing = getattr(module, parts[-1], None) or importlib.import_module(".".join(parts))
        assert inspect.getdoc(thing), dotted
