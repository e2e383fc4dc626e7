"""Everything one benchmark found, and its JSON."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from river_trt.benchmark.arms import FULL_DEPTH, Arm
from river_trt.benchmark.measure import EngineArm, Plan
from river_trt.benchmark.peers import Peer
from river_trt.benchmark.summary import ArmSummary, mixed_loss
from river_trt.engine import Engine
from river_trt.errors import RiverError
from river_trt.json_text import parse_json
from river_trt.manifest import ByteCounts
from river_trt.plain_file import read_text

MOST_BYTES = 256 << 20  # of an earlier result
POLICY_KEYS = ("tau", "pinned", "gate_scope", "mode", "policy")  # of an arm's JSON


@dataclass(frozen=True, slots=True)
class BenchEngine:
    """An engine that took part."""

    label: str  # empty where it is the only one
    model: str
    backend: str
    backbone: str  # precision
    num_layers: int
    bytes_per_layer: ByteCounts
    digest: str  # of its files
    tau: tuple[float, ...]  # its own


@dataclass(frozen=True, slots=True)
class ArmQuality:
    """How near a contestant is to the baseline, token by token of a text."""

    kl: float  # nats, from the first engine's full depth
    agreement: float  # 0..1


@dataclass(frozen=True, slots=True)
class BenchCase:
    """One load: all that took part, the baseline first."""

    plan: Plan
    context: int | None  # tokens of a prompt; None: as the prompts are
    num_prompts: int
    summaries: tuple[ArmSummary, ...]

    def title(self) -> str:
        """For people: the batch, and the context where it was set."""
        context = "" if self.context is None else f", prompts of {self.context} tokens"
        return f"batch {self.plan.batch}{context}"


@dataclass(frozen=True, slots=True)
class BenchResult:
    """All that a benchmark measured, and of what."""

    engines: tuple[BenchEngine, ...]
    arms: Mapping[str, tuple[int, Arm]]  # name of a contestant to its engine and mode
    cases: tuple[BenchCase, ...]
    bandwidth: float  # bytes/s of the memory that the first engine reads
    products: float | None  # operations/s of float32 matrix products; None: not a CPU's engine
    quality: Mapping[str, ArmQuality]  # by name of a contestant
    peers: Mapping[str, Any]  # name to what it said of itself
    missing: tuple[str, ...]  # peers that are not installed, and what installs them

    @classmethod
    def of(
        cls,
        contestants: Sequence[EngineArm],
        cases: Sequence[BenchCase],
        bandwidth: float,
        products: float | None,
        quality: Mapping[str, ArmQuality],
        peers: Sequence[Peer],
        missing: Sequence[str],
    ) -> "BenchResult":
        """Of the contestants, with each engine once; bandwidth in bytes/s."""
        engines = list({id(c.engine): c for c in contestants}.values())
        places = {id(c.engine): place for place, c in enumerate(engines)}
        return cls(
            engines=tuple(_describe_engine(c.engine, c.label) for c in engines),
            arms={c.name: (places[id(c.engine)], c.arm) for c in contestants},
            cases=tuple(cases),
            bandwidth=bandwidth,
            products=products,
            quality=quality,
            peers={peer.name: peer.details for peer in peers},
            missing=tuple(missing),
        )

    @property
    def said_bandwidth(self) -> str:
        """What the machine reaches, in words."""
        is_gpu = self.engines[0].backend == "torch"
        reads = "A copy on the GPU reaches" if is_gpu else "This machine reads"
        said = f"{reads} {self.bandwidth / 1e9:.1f} GB/s"
        if self.products is None:
            return f"{said}."
        return f"{said} and multiplies float32 matrices at {self.products / 1e9:.0f} GFLOP/s."

    def mixed(self, case: BenchCase, summary: ArmSummary) -> float | None:
        """What rows with exits of their own cost here; None where it cannot be said."""
        if case.plan.batch == 1 or summary.name not in self.arms:
            return None
        ends = {
            self.arms[s.name][1].name: s
            for s in case.summaries
            if s.name in self.arms and self.arms[s.name][0] == self.arms[summary.name][0]
        }
        if FULL_DEPTH.name not in ends or "all river" not in ends:
            return None
        return mixed_loss(summary, ends[FULL_DEPTH.name], ends["all river"])

    def to_json(self) -> dict[str, Any]:
        """What `bench --json` writes; numbers that JSON has not are null."""
        return {
            "engines": [_finite(asdict(engine)) for engine in self.engines],
            "bandwidth": self.bandwidth,
            "products": self.products,
            "cases": [self._case(case) for case in self.cases],
            "peers": dict(self.peers),
            "missing": list(self.missing),
        }

    def _case(self, case: BenchCase) -> dict[str, Any]:
        load = asdict(case.plan) | {"context": case.context, "prompts": case.num_prompts}
        return load | {"arms": [self._arm(case, summary) for summary in case.summaries]}

    def _arm(self, case: BenchCase, summary: ArmSummary) -> dict[str, Any]:
        values: dict[str, Any] = dict.fromkeys(("engine", *POLICY_KEYS, "quality"))
        if summary.name in self.arms:
            engine, arm = self.arms[summary.name]
            values |= {"engine": engine} | _policy(arm)
        if summary.name in self.quality:
            values["quality"] = asdict(self.quality[summary.name])
        values |= asdict(summary) | {"roof": summary.roof(self.bandwidth)}
        values["prefill_roof"] = summary.prefill_roof(self.products)
        return values | {"mixed_loss": self.mixed(case, summary)}


def engine_digest(engine: Engine) -> str:
    """Of all files and the policy: what an engine's figures belong to."""
    manifest = engine.manifest
    files = sorted((name, info.sha256) for name, info in manifest.files.items())
    identity = (files, manifest.policy, *manifest.policies)
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:16]


def stored_quality(path: Path, contestants: Sequence[EngineArm]) -> dict[str, ArmQuality]:
    """The scores that an earlier run's JSON holds of these engines in these modes.

    Raises RiverError where it is not such a file or knows none of them.
    """
    try:
        data = parse_json(read_text(path, MOST_BYTES))
        digests = [engine["digest"] for engine in data["engines"]]
        known = [
            (digests[arm["engine"]], {key: arm.get(key) for key in POLICY_KEYS}, arm["quality"])
            for case in data["cases"]
            for arm in case["arms"]
            if arm["quality"] is not None
        ]
        found = {
            contestant.name: ArmQuality(**quality)
            for contestant in contestants
            for digest, policy, quality in known
            if digest == engine_digest(contestant.engine) and policy == _policy(contestant.arm)
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RiverError(f"{path} is not the --json of an earlier bench ({error!r})") from error
    if not found:
        raise RiverError(f"{path} has no scores of these engines; give a text instead")
    return found


def _describe_engine(engine: Engine, label: str) -> BenchEngine:
    manifest = engine.manifest
    kernels = f", {manifest.backend.kernels} kernels" if manifest.backend.kernels else ""
    return BenchEngine(
        label=label,
        model=manifest.model.name,
        backend=manifest.backend.name + kernels,
        backbone=manifest.precision.backbone,
        num_layers=engine.num_layers,
        bytes_per_layer=manifest.bytes_per_layer,
        digest=engine_digest(engine),
        tau=manifest.policy.tau,
    )


def _policy(arm: Arm) -> dict[str, Any]:
    """tau and pins as JSON, which has no infinity: "inf" and "-inf", as in a manifest."""
    tau = arm.tau if arm.tau is None or isinstance(arm.tau, float | int) else list(arm.tau)
    pinned = None if arm.pinned is None else list(arm.pinned)
    return {
        "tau": _finite(tau),
        "pinned": pinned,
        "gate_scope": arm.gate_scope,
        "mode": arm.mode,
        "policy": arm.policy,
    }


def _finite(value: Any) -> Any:
    if isinstance(value, float) and math.isinf(value):
        return f"{value:g}"
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value
