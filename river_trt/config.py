"""What a caller may ask of one generation, and how it combines with the engine's exit policy."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal, get_args

import numpy as np

from river_trt.errors import RiverError
from river_trt.json_text import parse_json
from river_trt.spec import ExitPolicy

PrefillMode = Literal["off", "sequence"]
DecodeScope = Literal["token", "batch"]
Mode = Literal["river", "lossless", "full"]
# What every token of a generation is compared with, and every other request waits for.
MOST_STOP_STRINGS, LONGEST_STOP_STRING = 128, 1024  # strings, characters of one
MOST_STOP_CHARACTERS = 16384  # of all strings: the states of a search for them
MOST_VALUES = 4096  # of stop_token_ids, logit_bias, tau and pinned
MOST_LOGPROBS = 20  # of the best tokens at a place
MOST_SCHEMA_CHARACTERS = 65536


LARGEST_FLOAT = float(np.finfo(np.float32).max)
SAMPLING_RULES: tuple[tuple[str, str, Callable[[float], bool]], ...] = (
    ("temperature", "at least 0", lambda v: v >= 0),
    ("top_p", "above 0 and at most 1", lambda v: 0 < v <= 1),
    ("min_p", "at least 0 and below 1", lambda v: 0 <= v < 1),
    ("repetition_penalty", "above 0", lambda v: v > 0),
    ("presence_penalty", "of at least -2 and at most 2", lambda v: -2 <= v <= 2),
    ("frequency_penalty", "of at least -2 and at most 2", lambda v: -2 <= v <= 2),
)


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How to generate; checked when made. Raises RiverError naming the value and the rule.

    max_new_tokens: tokens generated at most, >= 1.
    temperature: 0 is greedy, and then top_k, top_p and min_p have no effect.
    top_k: 0 is off. top_p: in (0, 1], 1 is off. min_p: in [0, 1), 0 is off.
    repetition_penalty: > 0, 1 is off; counts the prompt's tokens too. For these five None is what
        the model's publisher says (`river-trt inspect` shows it), else greedy and off.
    presence_penalty, frequency_penalty: -2..2; taken from the logits of tokens of the text, once
        and for each time that they came, behind the repetition penalty; 0 is off.
    logit_bias: token id -> -100..100, added to its logit.
    json_schema: the text is JSON by this schema (an object, or its JSON), unless it ends before at
        max_new_tokens; needs llguidance (extra `serve`) and an engine with a tokenizer.
    logprobs: each token comes with its log-probability and those of so many best tokens, 0..20;
        the model's own, before everything above. None: no token does.
    prompt_logprobs: the same of the prompt's tokens, as this mode would decode them; it costs a
        pass more in the mode "river".
    seed: prompt i of a call draws from the stream of `seed + i`, whatever the other prompts are;
        None draws anew each time.
    stop: strings that end the text and are cut from it; needs an engine with a tokenizer. At most
        128, of at most 1,024 characters each and 16,384 together. Special tokens may be named in
        them: the text, which does not show them, ends where the token comes.
    stop_token_ids: token ids that end it, beside the model's end-of-sequence tokens.
    ignore_eos: go on after an end-of-sequence token.
    mode: "river" leaves the backbone as the exit policy says; "full" is the backbone alone;
        "lossless" gives the backbone's output too, drafted by the river (docs/lossless.md).
    policy: the name of one of the engine's policies (`engine.policies`; "exact" is full depth);
        None is the one that the engine has by default. Of the mode "river" only.
    tau: exit thresholds in the gate's units (cosine): None is the policy's own, a number holds
        for every layer, else one number per layer; inf forbids an exit, -inf forces one. Of the
        mode "river" only.
    pinned: layer numbers 1..L that always run the backbone; None is the policy's own, () is none.
        In the mode "lossless" those that run it while drafting.
    max_draft_tokens: tokens drafted for one verification at most, >= 1; mode "lossless" only.
    prefill: "off" runs prompts on the backbone, "sequence" lets a prompt exit as a whole.
    gate_scope: "token" lets each row exit on its own, "batch" only all rows together.
    """

    max_new_tokens: int = 128
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | Sequence[tuple[int, float]] = ()
    json_schema: str | Mapping[str, Any] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    mode: Mode = "river"
    policy: str | None = None
    tau: float | Sequence[float] | None = None
    pinned: Sequence[int] | None = None
    prefill: PrefillMode = "off"
    gate_scope: DecodeScope = "token"
    max_draft_tokens: int = 5

    def __post_init__(self) -> None:
        _check_int("max_new_tokens", self.max_new_tokens, 1)
        if self.top_k is not None:
            _check_int("top_k", self.top_k, 0)
        _check_int("max_draft_tokens", self.max_draft_tokens, 1)
        if self.seed is not None:
            _check_int("seed", self.seed, 0)
        for name, rule, accepts in SAMPLING_RULES:
            if (value := getattr(self, name)) is not None:
                _check_float(name, value, rule, accepts)
        if not isinstance(self.ignore_eos, bool):
            raise RiverError(f"ignore_eos must be True or False, got {self.ignore_eos!r}")
        for name in ("logprobs", "prompt_logprobs"):
            if (value := getattr(self, name)) is not None:
                _check_int(name, value, 0)
                if value > MOST_LOGPROBS:
                    raise RiverError(f"{name} may be {MOST_LOGPROBS} at most, got {value}")
        object.__setattr__(self, "logit_bias", _freeze_bias(self.logit_bias))
        if self.json_schema is not None:
            object.__setattr__(self, "json_schema", _schema_text(self.json_schema))
            if self.ignore_eos:
                raise RiverError(
                    "ignore_eos is not for a text with a json_schema: it ends where its JSON does"
                )
        _check_choice("mode", self.mode, get_args(Mode))
        _check_choice("prefill", self.prefill, get_args(PrefillMode))
        _check_choice("gate_scope", self.gate_scope, get_args(DecodeScope))

        # None is no value, as clients send it.
        stop = _items("stop", self.stop, MOST_STOP_STRINGS)
        for text in stop:
            if not isinstance(text, str) or not text:
                raise RiverError(f"stop must be strings that are not empty, got {stop!r:.200}")
            if len(text) > LONGEST_STOP_STRING:
                raise RiverError(
                    f"a string in stop may have {LONGEST_STOP_STRING} characters, got {len(text)}"
                )
        if sum(map(len, stop)) > MOST_STOP_CHARACTERS:
            raise RiverError(
                f"the strings in stop may have {MOST_STOP_CHARACTERS} characters together, "
                f"got {sum(map(len, stop))}"
            )
        object.__setattr__(self, "stop", stop)
        ids = _items("stop_token_ids", self.stop_token_ids, MOST_VALUES)
        for token in ids:
            _check_int("a token id in stop_token_ids", token, 0)
        object.__setattr__(self, "stop_token_ids", tuple(map(int, ids)))
        object.__setattr__(self, "tau", _freeze_tau(self.tau))
        if self.pinned is not None:
            layers = _items("pinned", self.pinned, MOST_VALUES)
            for layer in layers:
                _check_int("a layer in pinned", layer, 1)
            object.__setattr__(self, "pinned", tuple(map(int, layers)))
        if self.policy is not None and not isinstance(self.policy, str):
            raise RiverError(f"policy must be a name, got {_shown(self.policy)}")
        if self.mode != "river":
            self._check_backbone_output()

    def _check_backbone_output(self) -> None:
        """What asks for another output than the backbone's."""
        for name, neutral in (
            ("policy", None),
            ("tau", None),
            ("prefill", "off"),
            ("gate_scope", "token"),
        ):
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
    """The policy that makes the text: the config's tau and pinned where given, else `policy`'s.

    policy: what the config names (`Engine.policy_of`). Its directions stay in force either way; in
    the modes "full" and "lossless" it is the backbone. Raises RiverError for a tau of the wrong
    length or a pinned layer beyond num_layers.
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


def _freeze_tau(tau: Any) -> float | tuple[float, ...] | None:
    if tau is None:
        return None
    is_number = isinstance(tau, Real) and not isinstance(tau, bool)
    items = () if is_number else _items("tau", tau, MOST_VALUES)
    try:
        values = (float(tau),) if is_number else tuple(map(float, items))
    except (TypeError, ValueError, OverflowError) as error:
        raise RiverError(f"tau must be a number or a list of numbers, got {tau!r:.200}") from error
    if any(math.isnan(v) for v in values):
        raise RiverError("tau holds NaN; use inf to forbid an exit and -inf to force one")
    if any(LARGEST_FLOAT < abs(value) < math.inf for value in values):
        raise RiverError("tau must fit float32; use inf to forbid an exit and -inf to force one")
    return values[0] if is_number else values


def _freeze_bias(bias: Any) -> tuple[tuple[int, float], ...]:
    pairs = _items("logit_bias", bias.items() if isinstance(bias, Mapping) else bias, MOST_VALUES)
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise RiverError(f"logit_bias must give a number for each token id, got {_shown(pair)}")
        _check_int("a token id in logit_bias", pair[0], 0)
        rule = "of at least -100 and at most 100"
        _check_float(f"logit_bias of token {pair[0]}", pair[1], rule, lambda v: -100 <= v <= 100)
    return tuple((int(token), float(value)) for token, value in pairs)


def _schema_text(schema: Any) -> str:
    """JSON of a schema given as an object or as JSON."""
    try:
        value = parse_json(schema) if isinstance(schema, str) else schema
        if not isinstance(value, Mapping):
            raise ValueError("it is no object")
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise RiverError(
            f"json_schema must be a JSON object that is a schema: {error!s:.200}"
        ) from error
    if len(text) > MOST_SCHEMA_CHARACTERS:
        raise RiverError(
            f"json_schema may have {MOST_SCHEMA_CHARACTERS} characters, got {len(text)}"
        )
    return text


def _items(name: str, values: Any, most: int) -> tuple[Any, ...]:
    if isinstance(values, str):
        return (values,)
    if values is None:
        return ()
    if not isinstance(values, Iterable) or not isinstance(values, Sized):
        raise RiverError(f"{name} must be a list, got {_shown(values)}")
    if len(values) > most:
        raise RiverError(f"{name} may hold {most} values, got {len(values)}")
    return tuple(values)


def _check_int(name: str, value: Any, minimum: int) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
        raise RiverError(
            f"{name} must be a whole number of at least {minimum}, got {_shown(value)}"
        )


def _check_float(name: str, value: Any, rule: str, accepts: Any) -> None:
    try:
        number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        number = False
    if not number or not accepts(value):
        raise RiverError(f"{name} must be a number {rule}, got {_shown(value)}")


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.200}"
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a number of thousands of digits"


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise RiverError(f"{name} must be one of {', '.join(choices)}, got {_shown(value)}")
