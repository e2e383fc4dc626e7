"""The exit policy as an engine takes it: arrays of fixed places, written when they change."""

from collections.abc import Mapping

import numpy as np

from river_trt.spec import POLICY_INPUTS, ExitPolicy, GateScope


class PolicyBuffers:
    """The policy inputs of an engine, on the host.

    arrays: by name, in the order of spec.POLICY_INPUTS; a session may bind them once, for they are
    only ever written in place. A session whose engine reads other memory copies there what `write`
    names.
    """

    def __init__(
        self,
        num_layers: int,
        hidden_size: int,
        places: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """places: arrays to use for some of the inputs, zeroed here.

        Each of its shape in river_trt.spec (tau [L], directions [L, hidden], ...); an engine
        without a boolean type has its flags as int32.
        """
        arrays = {
            "tau": np.zeros(num_layers, np.float32),
            "pinned": np.zeros(num_layers, np.bool_),
            "use_directions": np.zeros((), np.bool_),
            "directions": np.zeros((num_layers, hidden_size), np.float32),
            "gate_scope": np.zeros((), np.int32),
        }
        for name, place in (places or {}).items():
            assert place.shape == arrays[name].shape, name
            place[...] = arrays[name]
            arrays[name] = place
        self.arrays = {name: arrays[name] for name in POLICY_INPUTS}
        self._written: tuple[bytes, bytes, bool, GateScope] | None = None
        self._directions: np.ndarray | None = None  # of the last policy
        self._last_directions: np.ndarray | None = None  # in the array, whatever the last policy

    @classmethod
    def of(
        cls, policy: ExitPolicy, hidden_size: int, gate_scope: GateScope = GateScope.TOKEN
    ) -> "PolicyBuffers":
        """Those of one policy, for a program that is called once."""
        buffers = cls(len(policy.tau), hidden_size)
        buffers.write(policy, gate_scope)
        return buffers

    def write(self, policy: ExitPolicy, gate_scope: GateScope) -> tuple[str, ...]:
        """Make the arrays those of the policy; returns the names of what changed."""
        directions = policy.directions
        # Nearly every step is as the last one was: bytes compare in a hundredth of arrays' time.
        written = (policy.tau.tobytes(), policy.pinned.tobytes(), directions is None, gate_scope)
        if written == self._written and directions is self._directions:
            return ()
        values = {
            "tau": policy.tau,
            "pinned": policy.pinned,
            "use_directions": np.asarray(directions is not None),
            "gate_scope": np.asarray(gate_scope),
        }
        # The one large input: looked at only when another array comes.
        if directions is not None and directions is not self._last_directions:
            values["directions"] = directions
            self._last_directions = directions
        changed = tuple(
            name for name, value in values.items() if not np.array_equal(self.arrays[name], value)
        )
        for name in changed:
            self.arrays[name][...] = values[name]
        self._written, self._directions = written, directions
        return changed
