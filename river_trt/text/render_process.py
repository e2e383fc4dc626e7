"""Renders chat templates in a process of its own, whose time and memory the system bounds.

A line of JSON in, a line of JSON out, until the input ends.
"""

import json
import resource
import signal
import sys
from typing import Any

import jinja2

from river_trt.text.environment import chat_environment

CPU_SECONDS = 2.0  # of one rendering, compiling included; a template takes milliseconds
MEMORY_BYTES = 512 * 2**20  # of addresses: Python itself takes a tenth
LONGEST_OUTPUT = 8 * 2**20  # characters
INVALID, REFUSED = "invalid", "refused"


def main() -> None:
    """Answer requests from stdin, a line each, until it ends."""
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


def answer(templates: dict[str, jinja2.Template], request: dict[str, Any]) -> dict[str, str]:
    """templates: what was compiled before, by its source. Without values, it is only compiled."""
    source, values = request["source"], request["values"]
    stage = INVALID
    try:
        if source not in templates:
            templates.clear()
            templates[source] = chat_environment().from_string(source)
        stage = REFUSED
        return {"text": "" if values is None else _render(templates[source], values)}
    except Exception as error:  # a template can divide by zero, recurse without end, ...
        return {stage: _reason(error)[:1000]}


def _render(template: jinja2.Template, values: dict[str, Any]) -> str:
    pieces, length = [], 0
    for piece in template.generate(**values):
        length += len(piece)
        if length > LONGEST_OUTPUT:
            raise jinja2.TemplateError(f"the text is longer than {LONGEST_OUTPUT} characters")
        pieces.append(piece)
    return "".join(pieces)


def _reason(error: Exception) -> str:
    """What a template's author said, or else the kind of error too; one line."""
    text = " ".join(str(error).split())
    if type(error) is jinja2.TemplateError and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
