"""The API reference of river_trt as web pages, made from docstrings and the comments of arguments.

usage: python -m scripts.api_reference FOLDER

Public is every class and function of a module of river_trt whose name has no underscore in front,
and the methods of such a class. Left out are the command line, whose reference is
`river-trt COMMAND --help`, and river_trt.vllm, which vLLM alone calls and which is imported under
it. Shapes stand in comments behind arguments and fields in the source; here they become a list
under the docstring.
"""

import argparse
import ast
import importlib
import inspect
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1] / "river_trt"
LEFT_OUT = ("cli", "__main__", "vllm")
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True, eq=False)
class Public:
    """One public class, function or method, as its source has it."""

    module: str  # river_trt.engine
    name: str  # Engine.generate
    node: ast.ClassDef | Function
    comments: dict[str, str]  # of its arguments or fields
    owner: "Public | None" = None  # the class of a method

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.node) or ""


def module_names() -> list[str]:
    """Of all modules in the reference, packages among them."""
    names = []
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        if not any(part in LEFT_OUT for part in parts):
            names.append(".".join(parts).removesuffix(".__init__"))
    return names


def public_names() -> Iterator[Public]:
    """Every public class, function and method."""
    for name in module_names():
        path = PACKAGE.parent.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        source = file.read_text(encoding="utf-8")
        lines = source.splitlines()
        for node in ast.parse(source).body:
            if not isinstance(node, ast.ClassDef | Function) or node.name.startswith("_"):
                continue
            found = Public(name, node.name, node, _comments(node, lines))
            yield found
            for inner in node.body if isinstance(node, ast.ClassDef) else ():
                if isinstance(inner, Function) and not inner.name.startswith("_"):
                    qualified = f"{node.name}.{inner.name}"
                    yield Public(name, qualified, inner, _comments(inner, lines), found)


def _comments(node: ast.ClassDef | Function, lines: Sequence[str]) -> dict[str, str]:
    """Behind each argument or field that stands on a line of its own."""
    places: list[tuple[str, int]] = []
    if isinstance(node, ast.ClassDef):
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                places.append((field.target.id, field.end_lineno or field.lineno))
    else:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        places = [(a.arg, a.lineno) for a in arguments if a.lineno != node.lineno]
    found = {}
    for name, number in places:
        _, mark, comment = lines[number - 1].partition("  # ")
        if mark and not comment.startswith(("noqa", "type:")):
            found[name] = comment.strip()
    return found


def add_comments() -> None:
    """Put the comments into the docstrings of the imported package, where pdoc reads them."""
    for public in public_names():
        if not public.comments:
            continue
        owner: Any = importlib.import_module(public.module)
        for part in public.name.split("."):
            owner = inspect.getattr_static(owner, part)
        target = owner.__func__ if isinstance(owner, classmethod | staticmethod) else owner
        listed = "\n".join(f"- `{name}`: {text}" for name, text in public.comments.items())
        target.__doc__ = f"{inspect.cleandoc(target.__doc__ or '')}\n\n{listed}"


def list_modules() -> None:
    """On the first page: pdoc makes links of names, but lists no modules where __all__ is set."""
    package = importlib.import_module(PACKAGE.name)
    listed = "\n".join(f"- `{name}`" for name in module_names()[1:])
    package.__doc__ = f"{package.__doc__}\n\n{listed}"


def write(folder: Path) -> None:
    """index.html and a page a module."""
    import pdoc

    add_comments()
    list_modules()
    pdoc.render.configure(docformat="google", show_source=True)
    with warnings.catch_warnings():
        # A package without __all__ brings its modules along, one with it does not: name them all.
        warnings.filterwarnings("ignore", "The module specification .* already been added")
        pdoc.pdoc(*module_names(), output_directory=folder)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    write(args.folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
