"""Which way imports may point, read from the source (all of it: inside functions too).

river_trt        no builders; only the command line, and only when called
neither of both  scripts or tests: research is beside the product, not in it
builders/graph   no backend
a backend        no other backend
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BACKENDS = ("aotinductor", "onnxruntime", "tensorrt", "tensorrt_llm")
SHARED = ("graph", "layouts")


def violations(root: Path) -> list[str]:
    """`file imports module` of every import that points the wrong way."""
    found = []
    for file in sorted([*root.glob("river_trt/**/*.py"), *root.glob("builders/**/*.py")]):
        where = file.relative_to(root)
        tree = ast.parse(file.read_text(encoding="utf-8"))
        at_load = set(_imports(tree, into_functions=False))
        for module in sorted(set(_imports(tree, into_functions=True))):
            if _is_wrong(where.parts, module, module in at_load):
                found.append(f"{where} imports {module}")
    return found


def _is_wrong(where: tuple[str, ...], module: str, at_load: bool) -> bool:
    package, *inner = module.split(".")
    if package in ("scripts", "tests"):
        return True
    if where[0] == "river_trt":
        return package == "builders" and (at_load or where[1] != "cli")
    backend = inner[0] if package == "builders" and inner and inner[0] in BACKENDS else None
    if where[1] in SHARED:
        return backend is not None
    return where[1] in BACKENDS and backend not in (None, where[1])


def _imports(tree: ast.AST, into_functions: bool) -> Iterator[str]:
    """Absolute names of modules: `from a import b` gives a and a.b, as b may be a module."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            continue  # for mypy alone: nothing is imported when the program runs
        elif into_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _imports(node, into_functions)


def test_no_import_points_the_wrong_way() -> None:
    assert violations(ROOT) == []


def test_the_rules_name_every_backend() -> None:
    builders = {file.parent.name for file in ROOT.glob("builders/*/build.py")}
    assert builders == set(BACKENDS)
    assert all((ROOT / "builders" / name).is_dir() for name in SHARED)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("river_trt/engine.py", "import builders"),
        ("river_trt/engine.py", "def f() -> None:\n    from builders.build import build"),
        ("river_trt/cli/build.py", "from builders.build import build"),
        ("river_trt/cli/build.py", "if True:\n    import builders.build"),
        ("builders/graph/regions.py", "from builders.onnxruntime.emit import Bank"),
        ("builders/layouts/panels.py", "from builders import tensorrt"),
        ("builders/tensorrt/scope.py", "from builders.onnxruntime.scope import Scope"),
        ("builders/onnxruntime/build.py", "def f() -> None:\n    import builders.aotinductor.cpu"),
        ("builders/calibration/search.py", "from scripts.research.quality import measure"),
    ],
)
def test_an_import_planted_the_wrong_way_is_found(tmp_path: Path, file: str, line: str) -> None:
    planted = tmp_path / file
    planted.parent.mkdir(parents=True)
    planted.write_text(f"{line}\n", encoding="utf-8")
    (found,) = {text.partition(" imports ")[0] for text in violations(tmp_path)}
    assert Path(found) == Path(file)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("river_trt/cli/build.py", "def f() -> None:\n    from builders.build import build"),
        ("builders/tensorrt/scope.py", "from builders.graph.scope import Scope"),
        ("builders/tensorrt/build.py", "from builders.tensorrt.scope import DTYPES"),
        ("builders/tensorrt_llm/convert.py", "from river_trt.backends import tensorrt_llm"),
        ("builders/build.py", "from builders.onnxruntime.build import build_engine"),
    ],
)
def test_an_import_the_right_way_passes(tmp_path: Path, file: str, line: str) -> None:
    planted = tmp_path / file
    planted.parent.mkdir(parents=True)
    planted.write_text(f"{line}\n", encoding="utf-8")
    assert violations(tmp_path) == []
