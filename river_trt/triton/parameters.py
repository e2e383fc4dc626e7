"""What a request may ask for by name, and how its values become a GenerationConfig."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from river_trt.config import GenerationConfig
from river_trt.errors import RiverError

LONGEST_JSON = 1_048_576  # characters: a long conversation
DEEPEST_JSON = 64  # of the schema of a tool's arguments
# Brackets, and whole strings, which hide theirs; the closing quote may be missing, so that no text
# is looked through twice.
MARKS = re.compile(r'[\[\]{}]|"(?:[^"\\]|\\.)*+"?', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Parameter:
    """field: of GenerationConfig. many: a list, or a single value for a list of one."""

    field: str
    convert: Callable[[Any], Any]
    what: str
    many: bool = False


def parse_parameters(text: str, name: str = "sampling_parameters") -> dict[str, Any]:
    """The JSON object in `text`. Raises RiverError naming `name`.

    Length and depth are bounded before it is parsed: a parser recurses as deeply as its input.
    """
    if len(text) > LONGEST_JSON:
        raise RiverError(f"{name} may have {LONGEST_JSON} characters, got {len(text)}")
    if _depth(text) > DEEPEST_JSON:
        raise RiverError(f"{name} nests deeper than {DEEPEST_JSON} lists and objects")
    try:
        values = json.loads(text) if text else {}
    except ValueError as error:
        raise RiverError(f"{name} is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise RiverError(f"{name} must be a JSON object, got {text!r:.60}")
    return values


def _depth(text: str) -> int:
    """How many lists and objects stand around the innermost, or more than DEEPEST_JSON."""
    depth = deepest = 0
    for match in MARKS.finditer(text):
        mark = match[0]
        if mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
            if deepest > DEEPEST_JSON:
                break
        elif mark in "]}":
            depth -= 1
    return deepest


def make_config(values: Mapping[str, Any]) -> GenerationConfig:
    """values: by the names of PARAMETERS. Raises RiverError naming what is wrong as given."""
    fields: dict[str, Any] = {}
    for name, value in values.items():
        if name in NEUTRAL:
            if value not in NEUTRAL[name]:
                raise RiverError(f"{name} is not supported, got {value!r:.60}")
            continue
        if name not in PARAMETERS:
            known = ", ".join(PARAMETERS)
            raise RiverError(f"{name:.60} is no parameter of this model; it takes {known}")
        parameter = PARAMETERS[name]
        converted = _convert(name, parameter, value)
        try:
            GenerationConfig(**{parameter.field: converted})
        except RiverError as error:
            given = "" if str(error).startswith(f"{name} ") else f"{name}: "
            raise RiverError(f"{given}{error}") from error
        fields[parameter.field] = converted
    return GenerationConfig(**fields)


def _convert(name: str, parameter: Parameter, value: Any) -> Any:
    try:
        if not parameter.many:
            return parameter.convert(value)
        values = value if isinstance(value, list | tuple) else [value]
        return tuple(parameter.convert(item) for item in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise RiverError(f"{name} must be {parameter.what}, got {value!r:.60}") from error


def _whole(value: Any) -> int:
    """Numbers may come as strings: generate's own parameters know no fractions."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value != value:
        raise TypeError
    number = int(value)
    if not isinstance(value, str) and number != value:
        raise ValueError
    return number


def _top_k(value: Any) -> int:
    """vLLM writes -1 for off."""
    return max(0, k) if (k := _whole(value)) == -1 else k


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    return float(value)


def _truth(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise TypeError
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _tau(value: Any) -> Any:
    """One number, or one a layer."""
    if isinstance(value, list | tuple):
        numbers = tuple(_number(item) for item in value)
        return numbers[0] if len(numbers) == 1 else numbers
    return _number(value)


def _bias(value: Any) -> dict[int, float]:
    """Keys of a JSON object are strings."""
    if not isinstance(value, dict):
        raise TypeError
    return {_whole(token): _number(bias) for token, bias in value.items()}


PARAMETERS = {
    "max_tokens": Parameter("max_new_tokens", _whole, "a whole number"),
    "temperature": Parameter("temperature", _number, "a number"),
    "top_k": Parameter("top_k", _top_k, "a whole number"),
    "top_p": Parameter("top_p", _number, "a number"),
    "min_p": Parameter("min_p", _number, "a number"),
    "repetition_penalty": Parameter("repetition_penalty", _number, "a number"),
    "presence_penalty": Parameter("presence_penalty", _number, "a number"),
    "frequency_penalty": Parameter("frequency_penalty", _number, "a number"),
    "logit_bias": Parameter("logit_bias", _bias, "an object of a number for each token id"),
    "seed": Parameter("seed", _whole, "a whole number"),
    "stop": Parameter("stop", _text, "a string or a list of strings", many=True),
    "stop_token_ids": Parameter("stop_token_ids", _whole, "a list of token ids", many=True),
    "ignore_eos": Parameter("ignore_eos", _truth, "true or false"),
    "mode": Parameter("mode", _text, "a string"),
    "policy": Parameter("policy", _text, "a string"),
    "max_draft_tokens": Parameter("max_draft_tokens", _whole, "a whole number"),
    "tau": Parameter("tau", _tau, "a number or one a layer"),
    "pinned": Parameter("pinned", _whole, "a list of layer numbers", many=True),
    "prefill": Parameter("prefill", _text, "a string"),
}
# What vLLM's clients send by default and we have no use for: taken with the value of no effect.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "min_tokens": (0,),
    "skip_special_tokens": (True,),
}
