"""manifest.json: everything the runtime must know of an engine before it opens it."""

import dataclasses
import json
import math
import re
import types
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from river_trt.errors import EngineError
from river_trt.json_text import parse_json
from river_trt.manifest_limits import REBUILD as REBUILD
from river_trt.manifest_limits import cache_slot_bytes as cache_slot_bytes
from river_trt.manifest_limits import check_limits
from river_trt.origin import this_build
from river_trt.spec import ExitPolicy, GateKind, ModelShape

# Controls, which a terminal obeys and no file name has, and halves of characters.
FOREIGN = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")
MOST_NUMBER = 10**300  # of a float; more would be no number, or infinite
# Rises with every change of the manifest's keys (tests/river_trt/manifest_keys.json has them all).
SCHEMA_VERSION = 4
# Older schemas that are read, and what their engines have of the keys that came later. Of schema 1
# nobody can tell the model's special tokens and sampling.
_ONE_HEAD: dict[str, Any] = {
    "precision": {"river_head_bits": None},
    "bytes_per_layer": {"river_head": None, "both_heads": None},
}
ADDED: dict[int, dict[str, Any]] = {2: {"policies": []} | _ONE_HEAD, 3: _ONE_HEAD}
EXACT = "exact"  # the policy that every engine has: full depth
Kernels = Literal["native", "onnxruntime"]
TensorRTMode = Literal["plugin", "portable"]
RiverInputs = Literal["int8", "float32", "float16", "bfloat16"]  # what the river multiplies in


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that the engine was built from, and the hash of its config.json."""

    name: str
    family: str
    config_sha256: str
    shape: ModelShape
    eos_token_ids: tuple[int, ...]
    bos_token_id: int | None
    has_tokenizer: bool
    num_parameters: int


@dataclass(frozen=True, slots=True)
class BackendInfo:
    """What runs the engine, and the versions and hardware that it is bound to."""

    name: str
    version: str  # of the library the engine was built for
    target: str
    compute_capability: str | None = None
    kernels: Kernels | None = None  # of the CPU backend
    kernels_abi: int | None = None  # native_library.ABI_VERSION, of native kernels
    mode: TensorRTMode | None = None  # of the TensorRT backends
    # Of TensorRT: the engine file holds code for the host, so that later versions can run it.
    version_compatible: bool = False


@dataclass(frozen=True, slots=True)
class PrecisionInfo:
    """Number types: of the backbone, the LM head, the cache, and of what the river multiplies."""

    backbone: str
    lm_head_bits: int
    kv_cache: str
    river_activation: RiverInputs
    river_head_bits: int | None = None  # of rare tokens, where a token left; None: one head


@dataclass(frozen=True, slots=True)
class RiverInfo:
    """How the 4-bit bank was made."""

    quantiser: str
    bits: int
    group_size: int
    symmetric: bool
    calibration: str | None  # the text that the quantiser saw


@dataclass(frozen=True, slots=True)
class PolicyInfo:
    """The exit policy as stored: layers are numbered from 1."""

    gate: GateKind
    tau: tuple[float, ...]
    pinned: tuple[int, ...] = ()
    directions_file: str | None = None
    calibration: str | None = None  # how it was found, for people; None: nobody calibrated it

    @classmethod
    def from_policy(
        cls,
        policy: ExitPolicy,
        directions_file: str | None = None,
        calibration: str | None = None,
    ) -> "PolicyInfo":
        """directions_file: given for a policy that has directions, and only then."""
        assert (directions_file is None) == (policy.directions is None)
        pinned = tuple(int(layer) + 1 for layer in np.flatnonzero(policy.pinned))
        return cls(policy.gate, tuple(policy.tau.tolist()), pinned, directions_file, calibration)

    def to_policy(self, directions: np.ndarray | None = None) -> ExitPolicy:
        """directions: float32 [L, hidden], the content of directions_file."""
        pinned = np.zeros(len(self.tau), np.bool_)
        pinned[[layer - 1 for layer in self.pinned]] = True
        return ExitPolicy(np.asarray(self.tau, np.float32), pinned, directions)


@dataclass(frozen=True, slots=True)
class NamedPolicyInfo:
    """A policy that a call may choose by name, and what it does on held-out text."""

    name: str
    policy: PolicyInfo
    budget: float  # KL that it was found for, nats a token
    kl: float  # on held-out text, nats a token
    agreement: float  # 0..1: share of positions whose likeliest token is the backbone's
    backbone_layers: float  # mean, a token


@dataclass(frozen=True, slots=True)
class DraftInfo:
    """What drafts in lossless mode: every token on the river, the pinned layers (from 1) aside."""

    pinned: tuple[int, ...] = ()
    calibration: str | None = None  # how it was found, for people; None: nobody calibrated it

    def to_policy(self, num_layers: int) -> ExitPolicy:
        return ExitPolicy.all_river(np.isin(np.arange(1, num_layers + 1), self.pinned))


@dataclass(frozen=True, slots=True)
class ByteCounts:
    """Weight bytes one token reads when the part runs: per layer of a bank, and shared parts.

    river_head: in place of lm_head, of a step all of whose tokens left the backbone; both_heads: of
    one where some did. None where the head has no river.
    """

    backbone_layer: int
    river_layer: int
    lm_head: int
    embedding: int
    river_head: int | None = None
    both_heads: int | None = None

    def per_token(
        self, backbone_layers: float, num_layers: int, left: float | None = None
    ) -> float:
        """Weight bytes of one decode step whose backbone ran in that many layers, in the mean.

        left: the share of steps whose token left the backbone; None: the least that fits, as the
        first layer always runs.
        """
        river_layers = num_layers - backbone_layers
        layers = backbone_layers * self.backbone_layer + river_layers * self.river_layer
        if self.river_head is None:
            head: float = self.lm_head
        else:
            share = river_layers / max(1, num_layers - 1) if left is None else left
            head = self.lm_head + share * (self.river_head - self.lm_head)
        return layers + head + self.embedding


@dataclass(frozen=True, slots=True)
class SamplingInfo:
    """What generation_config.json says of sampling; None where it says nothing.

    A temperature of 0 is greedy: the model's publisher does not sample.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class TextInfo:
    """special_tokens: those that chat templates know by name ("bos_token"), as the model's
    tokenizer_config.json says. sampling: used where a caller asks for nothing else.
    """

    special_tokens: dict[str, str] = field(default_factory=dict)
    sampling: SamplingInfo = SamplingInfo()


@dataclass(frozen=True, slots=True)
class FileInfo:
    """Size in bytes and SHA-256, as hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of manifest.json. `files` lists every other file of the engine directory.

    Raises EngineError for values that contradict each other or are out of all bounds.
    """

    river_trt_version: str
    created: str
    model: ModelInfo
    backend: BackendInfo
    precision: PrecisionInfo
    river: RiverInfo
    policy: PolicyInfo
    bytes_per_layer: ByteCounts
    engine_file: str
    files: dict[str, FileInfo]
    draft: DraftInfo = DraftInfo()
    policies: tuple[NamedPolicyInfo, ...] = ()  # beside `policy`, which a call has by default
    text: TextInfo = field(default_factory=TextInfo)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        check_limits(self)
        num_layers = self.model.shape.num_layers
        for key, policy in self.stored_policies().items():
            if len(policy.tau) != num_layers:
                raise EngineError(
                    f"manifest.json: {key}.tau has {len(policy.tau)} values for "
                    f"{num_layers} layers; {REBUILD}"
                )
            if (policy.gate == "direction") != (policy.directions_file is not None):
                raise EngineError(
                    f"manifest.json: {key}.directions_file must be given for the direction gate, "
                    f"and only for it; {REBUILD}"
                )
        pins = {key: policy.pinned for key, policy in self.stored_policies().items()}
        for key, pinned in (pins | {"draft": self.draft.pinned}).items():
            if not all(1 <= layer <= num_layers for layer in pinned):
                raise EngineError(
                    f"manifest.json: {key}.pinned names a layer outside 1..{num_layers}; {REBUILD}"
                )
        names = [EXACT, *(policy.name for policy in self.policies)]
        if len(set(names)) < len(names):
            raise EngineError(
                f"manifest.json: the names in policies must differ, and none may be {EXACT!r}; "
                f"{REBUILD}"
            )
        for name in (self.engine_file, *self.directions_files):
            if name not in self.files:
                raise EngineError(f"manifest.json: files does not list {name}; {REBUILD}")

    def stored_policies(self) -> dict[str, PolicyInfo]:
        """All of them, by where they stand in the manifest."""
        named = {f"policies[{i}].policy": named.policy for i, named in enumerate(self.policies)}
        return {"policy": self.policy} | named

    @property
    def directions_files(self) -> set[str]:
        """Names of the files that hold directions."""
        files = {policy.directions_file for policy in self.stored_policies().values()}
        return {name for name in files if name is not None}

    @property
    def rows_are_independent(self) -> bool:
        """What a step gives a row does not depend, to the last bit, on the rows beside it.

        An LM head of 16 or 32 bits is ONNX Runtime's, which sums one row in an order of its own.
        """
        return self.backend.kernels == "native" and self.precision.lm_head_bits < 16

    def to_json(self) -> str:
        """The text of manifest.json."""
        return json.dumps(_encode(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Parse manifest.json; raises EngineError on anything it does not know exactly."""
        try:
            data = parse_json(text, _reject_constant)
        except ValueError as error:
            raise EngineError(f"manifest.json is not valid JSON ({error}); {REBUILD}") from error
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Any) -> "Manifest":
        """From parsed JSON; raises EngineError on anything it does not know exactly."""
        # The schema comes first: other keys of another schema are no error of this file.
        version = data.get("schema_version") if isinstance(data, dict) else None
        if type(version) is int and version > SCHEMA_VERSION:
            raise EngineError(
                f"the engine is newer than this river-trt: it has manifest schema {version}, and "
                f"{SCHEMA_VERSION} is the latest read here; upgrade with {this_build().upgrade()}"
            )
        if type(version) is int and version < SCHEMA_VERSION and version not in ADDED:
            raise EngineError(
                f"the engine is older than this river-trt: it has manifest schema {version}, and "
                f"{min(ADDED)} is the earliest read here; {REBUILD}"
            )
        if type(version) is int and version in ADDED:
            data = _with_added(data, ADDED[version]) | {"schema_version": SCHEMA_VERSION}
        manifest: Manifest = _decode(cls, data, "")
        return manifest


def _with_added(data: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """The data, with keys that came later where it has none of theirs."""
    found = dict(data)
    for key, value in added.items():
        if key not in found:
            found[key] = value
        elif isinstance(value, dict) and isinstance(found[key], dict):
            found[key] = value | found[key]
    return found


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _encode(value: Any) -> Any:
    """Dataclasses to JSON values; infinities become the strings "inf" and "-inf"."""
    if dataclasses.is_dataclass(value):
        return {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item) for item in value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def _decode(kind: Any, value: Any, where: str) -> Any:
    """The inverse of _encode, checked against the type `kind`; `where` names the value."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):  # X | None is the only union used
        return None if value is None else _decode(args[0], value, where)
    if origin is Literal and value in args:
        return value
    if origin is tuple and isinstance(value, list):
        return tuple(_decode(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {
            _decode(str, key, f"a key of {where}"): _decode(args[1], item, f"{where}.{key}")
            for key, item in value.items()
        }
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _decode_dataclass(kind, value, where)
    if kind is float and value in ("inf", "-inf"):
        return float(value)
    if kind is float and type(value) in (int, float) and abs(value) < MOST_NUMBER:
        return float(value)
    if kind is str and type(value) is str and FOREIGN.search(value):
        raise EngineError(
            f"manifest.json: {where} must be printable text, got {json.dumps(value)[:60]}; "
            f"{REBUILD}"
        )
    if kind in (int, str, bool) and type(value) is kind:
        return value
    expected = kind.__name__ if isinstance(kind, type) and origin is None else kind
    raise EngineError(
        f"manifest.json: {where or 'the document'} must be {expected}, "
        f"got {json.dumps(value)[:60]}; {REBUILD}"
    )


def _decode_dataclass(kind: Any, value: dict[str, Any], where: str) -> Any:
    prefix = f"{where}." if where else ""
    hints = get_type_hints(kind)
    for key in value:
        if key not in hints:
            shown = key if key.isidentifier() else json.dumps(key)[:60]
            raise EngineError(f"manifest.json: unknown key {prefix}{shown}; {REBUILD}")
    for known in dataclasses.fields(kind):
        if known.name not in value:
            raise EngineError(f"manifest.json: {prefix}{known.name} is missing; {REBUILD}")
    return kind(**{key: _decode(hints[key], item, prefix + key) for key, item in value.items()})
