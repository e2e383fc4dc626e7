"""An exit policy on its own: what `calibrate` finds on one machine and engines elsewhere take."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from river_trt.errors import RiverError
from river_trt.json_text import parse_json
from river_trt.manifest import FOREIGN
from river_trt.plain_file import read_text
from river_trt.spec import ExitPolicy

FORMAT = "river-trt policy 1"
MOST_BYTES = 256 << 20  # of directions for the largest models, as text
LARGEST_FLOAT = float(np.finfo(np.float32).max)
KEYS = {"format", "model", "config_sha256", "calibration", "tau", "pinned", "directions"}


@dataclass(frozen=True, slots=True, eq=False)
class PolicyFile:
    """Layers are numbered from 1; of the directions only layers that have one are written."""

    model: str
    config_sha256: str  # of the model's config.json: another model's policy is refused
    calibration: str  # how it was found, one line
    policy: ExitPolicy

    def write(self, path: Path) -> None:
        """Replace the file, whole or not at all. RiverError where it cannot be written."""
        policy = self.policy
        directions = None
        if policy.directions is not None:
            used = np.flatnonzero(policy.directions.any(1))
            directions = {str(layer + 1): policy.directions[layer].tolist() for layer in used}
        document = {
            "format": FORMAT,
            "model": self.model,
            "config_sha256": self.config_sha256,
            "calibration": self.calibration,
            "tau": [str(tau) if np.isinf(tau) else tau for tau in policy.tau.tolist()],
            "pinned": (np.flatnonzero(policy.pinned) + 1).tolist(),
            "directions": directions,
        }
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            temporary.write_text(json.dumps(document, allow_nan=False) + "\n", encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise RiverError(f"cannot write {path}: {error.strerror}") from error

    @classmethod
    def read(cls, path: Path) -> "PolicyFile":
        """RiverError, naming the value, for anything but what `write` makes."""
        try:
            document = parse_json(read_text(path, MOST_BYTES))
        except RiverError:
            raise
        except ValueError as error:
            raise RiverError(f"{path} is not JSON ({error})") from error
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise RiverError(f"{path} is not a policy that `river-trt calibrate` wrote")
        wrong = sorted(set(document) ^ KEYS)
        if wrong:
            state = "missing" if wrong[0] in KEYS else "unknown"
            raise RiverError(f"{path}: key {wrong[0]!r} is {state}")
        for key in ("model", "config_sha256", "calibration"):
            if not isinstance(document[key], str) or FOREIGN.search(document[key]):
                raise RiverError(f"{path}: {key} must be printable text")
        try:
            policy = _read_policy(document)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RiverError(f"{path}: {error}") from error
        return cls(document["model"], document["config_sha256"], document["calibration"], policy)

    def check_model(self, config_sha256: str, num_layers: int, hidden_size: int) -> None:
        """RiverError unless the policy is for this very model."""
        if config_sha256 != self.config_sha256:
            raise RiverError(
                f"the policy was calibrated for {self.model}, another model than this one; "
                "run `river-trt calibrate` for it"
            )
        directions = self.policy.directions
        if len(self.policy.tau) != num_layers or (
            directions is not None and directions.shape[1] != hidden_size
        ):
            raise RiverError(
                f"the policy has {len(self.policy.tau)} layers and the model {num_layers}, or "
                f"its directions are not of the hidden size {hidden_size}"
            )


def _read_policy(document: dict[str, Any]) -> ExitPolicy:
    values = [float(value) for value in document["tau"]]
    if any(LARGEST_FLOAT < abs(value) < np.inf for value in values):
        raise ValueError("tau must fit float32")
    tau = np.array(values, np.float32)
    pinned = np.zeros(len(tau), np.bool_)
    for layer in document["pinned"]:
        pinned[_index(layer, len(tau))] = True
    stored = document["directions"]
    if stored is None:
        return ExitPolicy(tau, pinned)
    rows = {_index(int(layer), len(tau)): np.array(row, float) for layer, row in stored.items()}
    if not all((abs(row) <= 1e6).all() for row in rows.values()):  # NaN is not
        raise ValueError("directions must be finite numbers")
    sizes = {row.shape for row in rows.values()}
    if len(sizes) != 1 or len(next(iter(sizes))) != 1:
        raise ValueError("directions must be vectors of one length")
    directions = np.zeros((len(tau), *sizes.pop()), np.float32)
    for index, row in rows.items():
        directions[index] = row
    return ExitPolicy(tau, pinned, directions)


def _index(layer: Any, num_layers: int) -> int:
    if type(layer) is not int or not 1 <= layer <= num_layers:
        raise ValueError(f"layer {layer!r} is not one of 1..{num_layers}")
    return layer - 1
