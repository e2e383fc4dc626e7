"""HumanEval: complete a Python function; it must pass its tests (Chen et al., 2021)."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from builders.evaluation.texts import read_records
from builders.tasks.sandbox import Program, judge
from river_trt.engine import Engine
from river_trt.prompts import Prompt

FIELDS = {"task_id": str, "prompt": str, "entry_point": str, "test": str}
MAX_NEW_TOKENS = 384
# A completion is a function's body: it ends where something else begins at the left margin.
STOP = ("\ndef ", "\nclass ", "\nif ", "\nprint(", "\n#", "\n@", "\n```")
CHAT = "Complete this Python function. Answer with the whole function in one code block.\n\n{}"
BLOCK = re.compile(r"```(?:python|py)?\n(.*?)(?:```|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    task_id: str
    prompt: str  # imports, signature and docstring
    entry_point: str
    test: str  # defines check(candidate)


def read_problems(path: Path) -> list[Problem]:
    names = tuple(FIELDS)
    return [Problem(*(r[name] for name in names)) for r in read_records(path, FIELDS)]


def ask(engine: Engine, problem: Problem, chat: bool) -> Prompt:
    if not chat:
        return problem.prompt
    return engine.chat_prompt([{"role": "user", "content": CHAT.format(problem.prompt)}])


def program(problem: Problem, answer: str, chat: bool) -> Program:
    """The function that the model wrote, and the tests that it must pass."""
    body = problem.prompt + answer
    before = _before_function(problem)
    if chat:
        blocks = BLOCK.findall(answer)
        code = blocks[0] if blocks else answer
        # A chat often leaves the imports out, or answers with the body alone.
        defines = f"def {problem.entry_point}(" in code
        body = f"{before}\n{code}" if defines else problem.prompt + code
    # Some tests call what stands above the function in its prompt.
    return Program(body, problem.entry_point, f"{before}\n{problem.test}")


def passes(problem: Problem, answer: str, chat: bool, unsafe: bool = False) -> bool:
    """Whether the answer passes the tests; unsafe: run it even where it cannot be isolated."""
    made = program(problem, answer, chat)
    try:
        ast.parse(made.source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return judge(made, unsafe=unsafe).passed


def _before_function(problem: Problem) -> str:
    """Imports and helpers that stand above the function to complete."""
    return problem.prompt.partition(f"def {problem.entry_point}(")[0]
