"""Answers kept in a file as they come, so that an interrupted task goes on where it was."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from river_trt.errors import RiverError
from river_trt.json_text import parse_json


@dataclass(frozen=True, slots=True)
class Answer:
    """How one policy did on one question."""

    correct: bool
    tokens: int  # generated
    decoded: int  # of them, by decode steps: the first comes from the prefill
    layers: int  # backbone layers of all decode steps


class Answers:
    """By policy and number of the question. A line a question, below one that says of what run."""

    def __init__(self, file: Path | None, kept: dict[tuple[str, int], Answer]) -> None:
        self._file, self._kept = file, kept

    @classmethod
    def open(cls, file: Path | None, run: dict[str, Any]) -> Self:
        """run: what must be the same for an answer to hold, as JSON. None: nothing is kept.

        Raises RiverError for a file that is none of these, or of another run.
        """
        if file is None:
            return cls(None, {})
        try:
            text = file.read_text(encoding="utf-8") if file.exists() else ""
            lines = text.splitlines(keepends=True)
            if lines and not lines[-1].endswith("\n"):
                lines.pop()  # it was being written
            if not lines:
                lines = [json.dumps({"run": run}) + "\n"]
            found = parse_json(lines[0])["run"]
            kept = {}
            for line in lines[1:]:
                values = parse_json(line)
                key = str(values.pop("policy")), int(values.pop("question"))
                kept[key] = Answer(**values)
            file.write_text("".join(lines), encoding="utf-8")
        except OSError as error:
            raise RiverError(f"cannot keep answers in {file}: {error.strerror}") from error
        except (ValueError, TypeError, KeyError) as error:
            raise RiverError(f"{file} holds no answers that a task has kept") from error
        different = sorted(key for key in {*found, *run} if found.get(key) != run.get(key))
        if different:
            raise RiverError(
                f"{file} holds answers of another run: its {different[0]} is another; "
                "give --resume another file"
            )
        return cls(file, kept)

    def of(self, policy: str, questions: int) -> dict[int, Answer]:
        """Those that are kept, by number of the question, from 1."""
        numbers = range(1, questions + 1)
        return {n: self._kept[policy, n] for n in numbers if (policy, n) in self._kept}

    def add(self, policy: str, question: int, answer: Answer) -> None:
        """Written at once."""
        if self._file is not None:
            line = {"policy": policy, "question": question} | asdict(answer)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
