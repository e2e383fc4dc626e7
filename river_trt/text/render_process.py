"""Renders chat templates in a process of its own, whose time and memory the system bounds.

A line of JSON in, a line of JSON out, until the input ends. Imports nothing else of river_trt, so
that it starts quickly.
"""

import json
import resource
import signal
import sys
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 2.0  # of one rendering, compiling included; a template takes milliseconds
MEMORY_BYTES = 512 * 2**20  # of addresses: Python itself takes a tenth
LONGEST_OUTPUT = 8 * 2**20  # characters
LONGEST_PRODUCT = 2**20  # characters or items that `*` makes, bits of a number
INVALID, REFUSED = "invalid", "refused"


class Environment(ImmutableSandboxedEnvironment):
    """As transformers makes it, in a sandbox: a template comes with the model.

    Intercepted operators are not folded when the template is compiled, and are looked at first.
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[jinja2.ext.loopcontrols],
            optimized=False,
        )
        self.filters["tojson"] = _tojson
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = _strftime_now

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if _size(operator, left, right) > LONGEST_PRODUCT:
            raise SecurityError(f"`{operator}` would make something too large")
        return super().call_binop(context, operator, left, right)


def _size(operator: str, left: Any, right: Any) -> float:
    """Of the result, at least roughly, for the operators that make much of little."""
    if operator == "**" and isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * max(right, 0)
    if operator == "*":
        for one, other in ((left, right), (right, left)):
            if isinstance(one, str | bytes | list | tuple) and isinstance(other, int):
                return len(one) * max(other, 0)
        if isinstance(left, int) and isinstance(right, int):
            return left.bit_length() + right.bit_length()
    return 0


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which no model was trained on."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def render(template: jinja2.Template, values: dict[str, Any]) -> str:
    """RuntimeError for a text that is longer than LONGEST_OUTPUT."""
    pieces, length = [], 0
    for piece in template.generate(values):
        length += len(piece)
        if length > LONGEST_OUTPUT:
            raise RuntimeError(f"the text is longer than {LONGEST_OUTPUT} characters")
        pieces.append(piece)
    return "".join(pieces)


def answer(templates: dict[str, jinja2.Template], request: dict[str, Any]) -> dict[str, str]:
    """templates: those that were compiled before, by their source."""
    source = request["source"]
    stage = INVALID
    try:
        if source not in templates:
            templates.clear()
            templates[source] = Environment().from_string(source)
        stage = REFUSED
        return {"text": render(templates[source], request["values"])}
    except jinja2.TemplateError as error:
        return {stage: str(error)[:1000]}
    except Exception as error:  # whatever a template's own expressions raise
        return {stage: f"{type(error).__name__}: {str(error)[:1000]}".removesuffix(": ")}


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    templates: dict[str, jinja2.Template] = {}
    for line in sys.stdin:
        # Its default action ends the process, whatever that is doing; Python itself would wait for
        # the end of a long operation.
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
        reply = json.dumps(answer(templates, json.loads(line)))
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        sys.stdout.write(reply + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
