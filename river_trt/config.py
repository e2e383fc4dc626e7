"""What a caller may ask of one generation, and how it combines with the engine's exit policy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np

from river_trt.errors import RiverError
from river_trt.spec import ExitPolicy

PrefillMode = Literal["off", "sequence"]
DecodeScope = Literal["token", "batch"]
Mode = Literal["river", "lossless", "full"]
# What one request's search for its stop strings may cost.
MAX_STOP_STRINGS = 64
MAX_STOP_CHARACTERS = 1024  # of each


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How to generate; checked when made. Raises RiverError naming the value and the rule.

    max_new_tokens: tokens generated at most, >= 1.
    temperature: 0 is greedy, and then top_k, top_p and min_p have no effect.
    top_k: 0 is off. top_p: in (0, 1], 1 is off. min_p: in [0, 1), 0 is off.
    repetition_penalty: > 0, 1 is off; counts the prompt's tokens too.
    seed: prompt i of a call draws from the stream of `seed + i`, whatever the other prompts are;
        None draws anew each time.
    stop: strings that end the text and are cut from it, at most MAX_STOP_STRINGS of at most
        MAX_STOP_CHARACTERS; needs an engine with a tokenizer. Special tokens may be named in them:
        the text, which does not have them, ends where the token comes.
    stop_token_ids: token ids that end it, beside the model's end-of-sequence tokens.
    ignore_eos: go on after an end-of-sequence token.
    mode: "river" leaves the backbone as the exit policy says; "full" is the backbone alone;
        "lossless" gives the backbone's output too, drafted by the river (docs/lossless.md).
    tau: exit thresholds in the gate's units (cosine): None is the engine's own, a number holds
        for every layer, else one number per layer; inf forbids an exit, -inf forces one. Of the
        mode "river" only.
    pinned: layer numbers 1..L that always run the backbone; None is the engine's own, () is none.
        In the mode "lossless" those that run it while drafting.
    max_draft_tokens: tokens drafted for one verification at most, >= 1; mode "lossless" only.
    prefill: "off" runs prompts on the backbone, "sequence" lets a prompt exit as a whole.
    gate_scope: "token" lets each row exit on its own, "batch" only all rows together.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    mode: Mode = "river"
    tau: float | Sequence[float] | None = None
    pinned: Sequence[int] | None = None
    prefill: PrefillMode = "off"
    gate_scope: DecodeScope = "token"
    max_draft_tokens: int = 5

    def __post_init__(self) -> None:
        _check_int("max_new_tokens", self.max_new_tokens, 1)
        _check_int("top_k", self.top_k, 0)
        _check_int("max_draft_tokens", self.max_draft_tokens, 1)
        if self.seed is not None:
            _check_int("seed", self.seed, 0)
        _check_float("temperature", self.temperature, "at least 0", lambda v: v >= 0)
        _check_float("top_p", self.top_p, "above 0 and at most 1", lambda v: 0 < v <= 1)
        _check_float("min_p", self.min_p, "at least 0 and below 1", lambda v: 0 <= v < 1)
        _check_float("repetition_penalty", self.repetition_penalty, "above 0", lambda v: v > 0)
        if not isinstance(self.ignore_eos, bool):
            raise RiverError(f"ignore_eos must be True or False, got {self.ignore_eos!r}")
        _check_choice("mode", self.mode, get_args(Mode))
        _check_choice("prefill", self.prefill, get_args(PrefillMode))
        _check_choice("gate_scope", self.gate_scope, get_args(DecodeScope))

        object.__setattr__(self, "stop", _freeze_stop(self.stop))
        token_ids = _freeze_list("stop_token_ids", self.stop_token_ids)
        for token in token_ids:
            _check_int("a token id in stop_token_ids", token, 0)
        object.__setattr__(self, "stop_token_ids", tuple(map(int, token_ids)))
        object.__setattr__(self, "tau", _freeze_tau(self.tau))
        if self.pinned is not None:
            pinned = _freeze_list("pinned", self.pinned)
            for layer in pinned:
                _check_int("a layer in pinned", layer, 1)
            object.__setattr__(self, "pinned", tuple(map(int, pinned)))
        if self.mode != "river":
            self._check_backbone_output()

    def _check_backbone_output(self) -> None:
        """What asks for another output than the backbone's."""
        for name, neutral in (("tau", None), ("prefill", "off"), ("gate_scope", "token")):
            if (value := getattr(self, name)) != neutral:
                raise RiverError(
                    f"{name} {value!r} is for the mode 'river'; "
                    f"the mode {self.mode!r} gives the backbone's output, so leave it out"
                )
        if self.mode == "full" and self.pinned is not None:
            raise RiverError(
                "pinned is for the modes 'river' and 'lossless'; the mode 'full' runs the backbone "
                "in every layer, so leave it out"
            )


def resolve_policy(config: GenerationConfig, policy: ExitPolicy, num_layers: int) -> ExitPolicy:
    """The policy that makes the text: the config's tau and pinned where given, else the engine's.

    The engine's directions stay in force either way; in the modes "full" and "lossless" it is the
    backbone. Raises RiverError for a tau of the wrong length or a pinned layer beyond num_layers.
    """
    if config.mode != "river":
        return ExitPolicy.full_depth(num_layers)
    tau, pinned = policy.tau, policy.pinned
    if config.tau is not None:
        if isinstance(config.tau, float):
            tau = np.full(num_layers, config.tau, np.float32)
        else:
            tau = np.asarray(config.tau, np.float32)
        if len(tau) != num_layers:
            raise RiverError(
                f"tau has {len(tau)} values but the model has {num_layers} layers; "
                "give one number, or one per layer"
            )
    if config.pinned is not None:
        pinned = _pinned_layers(config.pinned, num_layers)
    return ExitPolicy(tau, pinned, policy.directions)


def resolve_draft_policy(
    config: GenerationConfig, policy: ExitPolicy, num_layers: int
) -> ExitPolicy:
    """What drafts in the mode "lossless": the engine's draft policy, or the config's pins alone.

    Raises RiverError for a pinned layer beyond num_layers.
    """
    if config.pinned is None:
        return policy
    return ExitPolicy.all_river(_pinned_layers(config.pinned, num_layers))


def _pinned_layers(layers: Sequence[int], num_layers: int) -> np.ndarray:
    pinned = np.zeros(num_layers, np.bool_)
    for layer in layers:
        if layer > num_layers:
            raise RiverError(f"pinned layer {layer} is not one of the layers 1..{num_layers}")
        pinned[layer - 1] = True
    return pinned


def _freeze_stop(stop: Any) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else _freeze_list("stop", stop)
    if not all(isinstance(string, str) and string for string in strings):
        raise RiverError(f"stop must be strings that are not empty, got {strings!r:.80}")
    longest = max(map(len, strings), default=0)
    if len(strings) > MAX_STOP_STRINGS or longest > MAX_STOP_CHARACTERS:
        raise RiverError(
            f"stop takes at most {MAX_STOP_STRINGS} strings of at most {MAX_STOP_CHARACTERS} "
            f"characters, got {len(strings)} of up to {longest}"
        )
    return strings


def _freeze_list(name: str, values: Any) -> tuple[Any, ...]:
    """None is no value, as clients send it."""
    try:
        return () if values is None else tuple(values)
    except TypeError as error:
        raise RiverError(f"{name} must be a list, got {values!r:.80}") from error


def _freeze_tau(tau: Any) -> float | tuple[float, ...] | None:
    if tau is None:
        return None
    is_number = isinstance(tau, Real) and not isinstance(tau, bool)
    try:
        values = (float(tau),) if is_number else tuple(float(v) for v in tau)
    except (TypeError, ValueError) as error:
        raise RiverError(f"tau must be a number or a list of numbers, got {tau!r}") from error
    if any(math.isnan(v) for v in values):
        raise RiverError("tau holds NaN; use inf to forbid an exit and -inf to force one")
    return values[0] if is_number else values


def _check_int(name: str, value: Any, minimum: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
        raise RiverError(f"{name} must be a whole number of at least {minimum}, got {value!r}")


def _check_float(name: str, value: Any, rule: str, accepts: Any) -> None:
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not accepts(value):
        raise RiverError(f"{name} must be a number {rule}, got {value!r}")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise RiverError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
