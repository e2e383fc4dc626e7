"""How a long task tells how far it is."""

from typing import Protocol


class Progress(Protocol):
    """Called as a task goes on; its first word of a stage is `done` 0."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """stage: for people; done of total: in units that the stage chooses."""
        ...


def silent(stage: str, done: int, total: int) -> None:
    """Tells nobody."""
