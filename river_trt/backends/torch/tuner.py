"""Which variant of the packed bank's kernel is fastest for a shape, measured on the user's card.

Choices are kept in the user's cache, by card and by the version of the kernels, so a second run
measures nothing. What the cache holds is checked: an entry of other kernels, of no known variant or
of no number is measured again.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from river_trt.errors import EngineError
from river_trt.json_text import parse_json
from river_trt.manifest import REBUILD
from river_trt.user_cache import is_trusted, locked, private_folder

FORMAT = 2  # 1 measured the river bank alone
PACKED_LINEAR = "river_trt_cuda.packed_linear.default"


@dataclass(frozen=True, slots=True)
class LinearCase:
    """What a choice depends on: y [rows, n] of x [rows, k]."""

    n: int
    k: int
    group_size: int
    rows: int
    int8_activations: bool
    # How it is measured: as its first call in the program is.
    chooses: bool = field(default=False, compare=False)  # between two banks
    norm: bool = field(default=False, compare=False)
    silu_mul: bool = field(default=False, compare=False)
    flags_early: bool = field(default=False, compare=False)

    @property
    def key(self) -> str:
        activations = "int8" if self.int8_activations else "exact"
        return f"{self.n}x{self.k} g{self.group_size} rows {self.rows} {activations}"

    @classmethod
    def from_key(cls, key: str) -> "LinearCase | None":
        """None for what is no key."""
        match = re.fullmatch(r"(\d{1,9})x(\d{1,9}) g(\d{1,3}) rows (\d) (int8|exact)", key)
        if match is None:
            return None
        n, k, group_size, rows = map(int, match.groups()[:4])
        return cls(n, k, group_size, rows, match[5] == "int8")


def linear_cases(program: str, rows: int) -> list[LinearCase]:
    """The packed banks that a recorded program multiplies, each shape once.

    EngineError where the text is no program.
    """
    try:
        document = parse_json(program)
        columns = {call["name"]: call["args"][3] for call in document["prepare"]}
        cases = [
            LinearCase(
                *(args[4], columns[args[3]["of"]], args[5], rows, args[12]),
                chooses=args[1] is not None,
                norm=args[8] is not None,
                silu_mul=args[10],
                flags_early=args[13],
            )
            for call in document["calls"]
            if call["op"] == PACKED_LINEAR and (args := call["args"])[3] is not None
        ]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise EngineError(f"the engine's program is damaged ({error}); {REBUILD}") from error
    return list(dict.fromkeys(cases))


@dataclass(frozen=True, slots=True)
class Choice:
    """The fastest variant of a case, and how long it takes."""

    variant: str
    microseconds: float


Measure = Callable[[LinearCase, int], float]  # microseconds; inf where the variant does not fit


@dataclass(frozen=True, slots=True)
class TunedVariants:
    """The choices of one card and one version of the kernels, in a file of the user's cache."""

    card: str
    version: int  # linear_version() of the operators
    variants: Sequence[str]  # linear_variants(); a variant's number is its place

    @property
    def file(self) -> Path:
        name = "".join(c if c.isalnum() else "-" for c in self.card)
        return private_folder("tuned") / f"{name}-{self.version}.json"

    def read(self) -> dict[str, Choice]:
        """By a case's key; what does not hold for these kernels is left out."""
        if not is_trusted(self.file):
            return {}
        try:
            content = json.loads(self.file.read_text(encoding="utf-8"))
            known = (content["format"], content["card"], content["version"])
            entries = dict(content["choices"]) if known == self._known else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}
        return {key: choice for key, entry in entries.items() if (choice := self._choice(entry))}

    def choose(self, cases: Iterable[LinearCase], measure: Measure) -> dict[LinearCase, int]:
        """The variant's number for each case; those that the cache lacks are measured and kept."""
        wanted = list(dict.fromkeys(cases))
        choices = self.read()
        missing = [case for case in wanted if case.key not in choices]
        for case in missing:
            times = [measure(case, number) for number in range(len(self.variants))]
            best = min(range(len(times)), key=times.__getitem__)
            if not math.isfinite(times[best]):
                raise RuntimeError(f"no variant of the kernel runs {case.key}: {times}")
            choices[case.key] = Choice(self.variants[best], times[best])
        if missing:
            self._write(choices)
        return {case: self.variants.index(choices[case.key].variant) for case in wanted}

    def known(self) -> dict[LinearCase, int]:
        """The variant's number of every case that the cache has."""
        choices = self.read()
        return {
            case: self.variants.index(choice.variant)
            for key, choice in choices.items()
            if (case := LinearCase.from_key(key)) is not None
        }

    @property
    def _known(self) -> tuple[int, str, int]:
        return FORMAT, self.card, self.version

    def _choice(self, entry: object) -> Choice | None:
        match entry:
            case {"variant": str(name), "microseconds": float(time)}:
                fits = name in self.variants and math.isfinite(time) and time > 0
                return Choice(name, time) if fits else None
        return None

    def _write(self, choices: Mapping[str, Choice]) -> None:
        content = {
            "format": FORMAT,
            "card": self.card,
            "version": self.version,
            "choices": {
                key: {"variant": choice.variant, "microseconds": choice.microseconds}
                for key, choice in sorted(choices.items())
            },
        }
        file = self.file
        with locked(file.parent):
            new = file.with_suffix(".new")
            new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            new.replace(file)
