"""Which variant of a kernel is fastest for a shape, measured on the user's card.

Two kernels have variants: the packed bank's linear, and attention. Choices are kept in the user's
cache, by card and by the version of the kernel, so a second run measures nothing. What the cache
holds is checked: an entry of other kernels, of no known variant or of no number is measured again.
"""

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, Protocol, Self, TypeVar

from river_trt.errors import EngineError
from river_trt.json_text import parse_json
from river_trt.manifest import REBUILD
from river_trt.progress import Progress, silent
from river_trt.user_cache import is_trusted, locked, private_folder, user_cache

FORMAT = 2  # 1 measured the river bank alone
FOLDER = "tuned"  # of the user's cache
PACKED_LINEAR = "river_trt_cuda.packed_linear.default"
ATTENTION = "river_trt_cuda.attention.default"


class Case(Protocol):
    """What a choice depends on; hashable."""

    kernel: ClassVar[str]

    @property
    def key(self) -> str: ...

    @classmethod
    def from_key(cls, key: str) -> Self | None: ...


C = TypeVar("C", bound=Case)


@dataclass(frozen=True, slots=True)
class LinearCase:
    """y [rows, n] of x [rows, k]."""

    kernel: ClassVar[str] = "linear"
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


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """One new token of each of `batch` sequences, over caches of `capacity` slots."""

    kernel: ClassVar[str] = "attention"
    batch: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    capacity: int
    window: int  # 0: none

    @property
    def key(self) -> str:
        heads = f"{self.num_heads}/{self.num_kv_heads}x{self.head_dim}"
        return f"heads {heads} batch {self.batch} capacity {self.capacity} window {self.window}"

    @classmethod
    def from_key(cls, key: str) -> "AttentionCase | None":
        """None for what is no key."""
        match = re.fullmatch(
            r"heads (\d{1,6})/(\d{1,6})x(\d{1,3}) batch (\d{1,5}) "
            r"capacity (\d{1,9}) window (\d{1,9})",
            key,
        )
        if match is None:
            return None
        heads, kv_heads, head_dim, batch, capacity, window = map(int, match.groups())
        return cls(batch, heads, kv_heads, head_dim, capacity, window)


def attention_cases(program: str, batch: int, head_dim: int, capacity: int) -> list[AttentionCase]:
    """The kinds of attention of a recorded program, each once.

    EngineError where the text is no program.
    """
    try:
        cases = [
            AttentionCase(batch, args[8], args[9], head_dim, capacity, args[11])
            for call in parse_json(program)["calls"]
            if call["op"] == ATTENTION
            for args in [call["args"]]
        ]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise EngineError(f"the engine's program is damaged ({error}); {REBUILD}") from error
    return list(dict.fromkeys(cases))


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


@dataclass(frozen=True, slots=True)
class TunedVariants(Generic[C]):
    """The choices of one card and one version of a kernel, in a file of the user's cache."""

    case_type: type[C]
    card: str
    version: int  # linear_version() or attention_version() of the operators
    variants: Sequence[str]  # linear_variants() or ...; a variant's number is its place

    @property
    def file(self) -> Path:
        name = "".join(c if c.isalnum() else "-" for c in self.card)
        return user_cache() / FOLDER / f"{name}-{self.case_type.kernel}-{self.version}.json"

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

    def choose(
        self,
        cases: Iterable[C],
        measure: Callable[[C, int], float],  # microseconds; inf where the variant does not fit
        progress: Progress = silent,
        deadline: float = math.inf,  # of time.monotonic()
    ) -> dict[C, int]:
        """The variant's number for each case; those that the cache lacks are measured and kept.

        No case is begun after the deadline: those are left out. Processes measure one after the
        other, and the next one finds what the first one kept.
        """
        wanted = list(dict.fromkeys(cases))
        choices = self.read()
        if any(case.key not in choices for case in wanted):
            with locked(private_folder(FOLDER)):
                choices = self._measured(wanted, measure, progress, deadline)
        return {
            case: self.variants.index(choices[case.key].variant)
            for case in wanted
            if case.key in choices
        }

    def _measured(
        self,
        wanted: Sequence[C],
        measure: Callable[[C, int], float],
        progress: Progress,
        deadline: float,
    ) -> dict[str, Choice]:
        choices = self.read()
        missing = [case for case in wanted if case.key not in choices]
        stage = f"measuring variants of {self.case_type.kernel} on this GPU, once"
        for done, case in enumerate(missing):
            if time.monotonic() >= deadline:
                left = f"{len(missing) - done} shapes of {self.case_type.kernel}"
                progress(f"no time is left: {left} are measured at the next load", 0, 0)
                break
            progress(stage, done, len(missing))
            times = [measure(case, number) for number in range(len(self.variants))]
            best = min(range(len(times)), key=times.__getitem__)
            if not math.isfinite(times[best]):
                raise RuntimeError(f"no variant of the kernel runs {case.key}: {times}")
            choices[case.key] = Choice(self.variants[best], times[best])
        else:
            progress(stage, len(missing), len(missing))
        self._write(choices)
        return choices

    def known(self) -> dict[C, int]:
        """The variant's number of every case that the cache has."""
        return {
            case: self.variants.index(choice.variant)
            for key, choice in self.read().items()
            if (case := self.case_type.from_key(key)) is not None
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
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        new.replace(self.file)
