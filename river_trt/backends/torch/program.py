"""A recorded program: a list of calls of torch operators over named values, run in its order.

{"format": 1,
 "inputs": ["input_ids", ...],                      in the order of river_trt.spec
 "calls": [{"name": "layers.0.self_attn.qkv_proj",  what it gives; later arguments name it
            "op": "river_trt_cuda.fused_linear.default",
            "args": [{"of": "embedding"}, null, 1e-05, false, {"dtype": "bfloat16"}, [2048, 512]]}],
 "outputs": ["logits", "exit_layer"],
 "prepare": [...]}                                  calls over weights alone, made when it is loaded

Any other name is a weight. The file is data, from wherever an engine came: only operators of
OPERATORS are called, all of which compute on the tensors that they are given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import getitem
from typing import Any

import torch

from river_trt.errors import EngineError
from river_trt.json_text import parse_json
from river_trt.manifest import REBUILD
from river_trt.origin import this_build

FORMAT = 1
GETITEM = "getitem"  # one output of an operator that has several
ATEN = (
    *("__and__.Tensor", "add.Tensor", "bitwise_not.default", "chunk.default", "cumsum.default"),
    *("div.Tensor", "embedding.default", "flatten.using_ints", "full_like.default"),
    *("gelu.default", "index_select.default", "linear.default", "mul.Tensor"),
    *("ones_like.default", "rms_norm.default", "select.int", "silu.default", "slice.Tensor"),
    *("split_with_sizes.default", "sub.Tensor", "tanh.default", "to.dtype", "unflatten.int"),
    *("unsqueeze.default", "zeros_like.default"),
)
OURS = ("attention", "fused_linear", "packed_linear", "step_gate")
PREPARING = ("river_trt_cuda.pack.default",)
OPERATORS = frozenset(
    (
        *(GETITEM, *PREPARING, *(f"aten.{name}" for name in ATEN)),
        *(f"river_trt_cuda.{name}.default" for name in OURS),
    )
)
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool,
        torch.int32,
        torch.int64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
    )
}
Place = tuple[int, int]  # of an argument, and of the value that it takes


@dataclass(frozen=True, slots=True)
class _Step:
    name: str
    function: Callable[..., Any]
    args: list[Any]  # constants; what is in `taken` is filled in
    kwargs: dict[str, Any]
    taken: tuple[Place, ...]
    gives: int
    dead: tuple[int, ...]  # values that nobody takes after this step


class Program:
    """The calls over these weights; `program(inputs)` returns the outputs.

    Shapes are those that the program was recorded with: [rows, seq, ...].
    """

    def __init__(self, text: str, weights: dict[str, torch.Tensor]) -> None:
        """Replaces in `weights` what is prepared by what comes of it, one after the other.

        EngineError for a file that is no program, calls what it may not, or fits the weights not
        exactly.
        """
        try:
            document = parse_json(text)
            if document["format"] != FORMAT:
                raise EngineError(
                    f"the program has format {document['format']!r} but this river-trt reads "
                    f"{FORMAT}; {REBUILD}"
                )
            _prepare(document, weights)
            self._read(document, weights)
        except EngineError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise EngineError(
                f"the engine's program is damaged ({_first_line(error)}); {REBUILD}"
            ) from error

    def _read(self, document: dict[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
        self._slots = {name: index for index, name in enumerate(weights)}
        self._values: list[Any] = list(weights.values())
        self.inputs = tuple(document["inputs"])
        self._inputs = [self._new(name) for name in self.inputs]
        self._used: set[int] = set()
        steps = [self._step(call) for call in document["calls"]]
        self._outputs = [self._slots[name] for name in document["outputs"]]
        self._used.update(self._outputs)
        unused = [name for name in weights if self._slots[name] not in self._used]
        if unused:
            raise EngineError(f"no call of the program takes the weight {unused[0]}; {REBUILD}")
        self._steps = _with_deaths(steps, {*range(len(weights)), *self._inputs, *self._outputs})

    def __call__(self, inputs: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
        """EngineError where torch refuses a call; its own error where there is no more memory."""
        values = self._values.copy()
        for slot, tensor in zip(self._inputs, inputs, strict=True):
            values[slot] = tensor
        for step in self._steps:
            args = step.args.copy()
            for place, slot in step.taken:
                args[place] = values[slot]
            try:
                values[step.gives] = step.function(*args, **step.kwargs)
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, LookupError, TypeError, ValueError) as error:
                raise EngineError(
                    f"the engine's program fails at {step.name!r:.80}: {_first_line(error)}"
                ) from error
            for slot in step.dead:
                values[slot] = None
        return [values[slot] for slot in self._outputs]

    def _new(self, name: str) -> int:
        if name in self._slots:
            raise ValueError(f"{name} is given twice")
        self._slots[name] = len(self._values)
        self._values.append(None)
        return self._slots[name]

    def _step(self, call: dict[str, Any]) -> _Step:
        args: list[Any] = []
        taken: list[Place] = []
        for place, arg in enumerate(call["args"]):
            if _is_name(arg):
                if arg["of"] not in self._slots:
                    raise EngineError(f"the engine has no tensor {arg['of']}; {REBUILD}")
                taken.append((place, self._slots[arg["of"]]))
                args.append(None)
            else:
                args.append(_constant(arg))
        self._used.update(slot for _, slot in taken)
        kwargs = {name: _constant(arg) for name, arg in call.get("kwargs", {}).items()}
        function = _function(call["op"])
        return _Step(
            call["name"], function, args, kwargs, tuple(taken), self._new(call["name"]), ()
        )


def _prepare(document: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
    """Run the calls of "prepare"; what only they take leaves the weights, and its memory."""
    kept = {name for call in document["calls"] for name in _names(call)}
    calls = document["prepare"]
    for number, call in enumerate(calls):
        if call["op"] not in PREPARING or call["name"] in weights:
            raise ValueError(f"it prepares {call['name']} by {call['op']}")
        missing = _names(call) - weights.keys()
        if missing:
            raise EngineError(f"the engine has no tensor {sorted(missing)[0]}; {REBUILD}")
        args = [weights[arg["of"]] if _is_name(arg) else _constant(arg) for arg in call["args"]]
        weights[call["name"]] = _function(call["op"])(*args)
        del args
        kept_here = kept.union(*map(_names, calls[number + 1 :]))
        for name in _names(call) - kept_here:
            del weights[name]


def _is_name(arg: Any) -> bool:
    return isinstance(arg, dict) and "of" in arg


def _names(call: dict[str, Any]) -> set[str]:
    """Of the values that a call takes."""
    return {arg["of"] for arg in call["args"] if _is_name(arg)}


def _with_deaths(steps: list[_Step], kept: set[int]) -> list[_Step]:
    """The steps, each with the values that it is the last to take."""
    seen = set(kept)
    result = []
    for step in reversed(steps):
        touched = {slot for _, slot in step.taken} | {step.gives}
        dead = tuple(sorted(touched - seen))
        seen |= touched
        result.append(replace(step, dead=dead))
    return result[::-1]


def _constant(arg: Any) -> Any:
    if isinstance(arg, dict):
        return DTYPES[arg["dtype"]]
    if isinstance(arg, list):
        return [_constant(item) for item in arg]
    if arg is None or isinstance(arg, bool | int | float | str):
        return arg
    raise ValueError(f"argument {arg!r:.40}")


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _function(name: str) -> Callable[..., Any]:
    if name not in OPERATORS:
        raise EngineError(
            f"the engine's program calls {name!r:.60}, which this river-trt does not run; "
            f"upgrade with {this_build().upgrade()}, and do not run engines that you do not trust"
        )
    if name == GETITEM:
        return getitem
    namespace, operator, overload = name.split(".")
    function: Callable[..., Any] = getattr(
        getattr(getattr(torch.ops, namespace), operator), overload
    )
    return function
