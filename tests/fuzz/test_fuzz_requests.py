"""Requests of any values: each is answered, wrong ones in a sentence; none is a fault of ours."""

import asyncio
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from river_trt import GenerationConfig, RiverError
from river_trt.triton.bridge import Bridge
from river_trt.triton.fields import LAYOUTS
from river_trt.triton.parameters import NEUTRAL, PARAMETERS
from tests.fuzz.budget import fuzzing, report
from tests.river_trt.triton.triton_double import PB_UTILS, Error, Request, Tensor

EDGES = st.sampled_from(
    [
        *(-1, 0, 1, 2, 3, 4, 5, 2**31 - 1, 2**63, -(2**63), 10**30, 10**400, 1e308, 1e-308, 0.5),
        *(float("nan"), float("inf"), float("-inf"), "", " ", "inf", "-0", "1_0", "\ud800", "\x00"),
        *("river", "lossless", "full", "off", "sequence", "batch", "token", True, None),
    ]
)
SCALARS = st.one_of(EDGES, st.integers(), st.floats(), st.text(max_size=20), st.booleans())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([*PARAMETERS, *NEUTRAL]) | st.text(max_size=8)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)
# JSON of any kind, and JSON with some characters replaced.
TEXTS = st.one_of(
    OBJECTS.map(json.dumps),
    st.builds(
        lambda text, at, insert: text[: at % (len(text) + 1)] + insert + text[at % 7 :],
        OBJECTS.map(json.dumps),
        st.integers(0, 1000),
        st.text('[]{}",:\\u0eE+-.', max_size=60),
    ),
    st.just(""),
)
STRINGS = st.binary(max_size=40) | st.text(max_size=40).map(lambda t: t.encode(errors="replace"))
NUMBERS = st.sampled_from([np.bool_, np.int32, np.int64, np.uint64, np.float32, np.float64])


@st.composite
def tensors(draw, layout):
    """Some of a layout's inputs, of the right or of any kind, shape and number."""
    made = []
    for field in draw(st.lists(st.sampled_from(layout.inputs), max_size=5, unique=True)):
        size = draw(st.sampled_from([1, 1, 1, 0, 2, 5]))
        if draw(st.booleans()) if field.kind != "STRING" else draw(st.integers(0, 9)) > 0:
            values = draw(st.lists(STRINGS, min_size=size, max_size=size))
            if field.name == "sampling_parameters" and size == 1:
                values = [draw(TEXTS).encode(errors="replace")]
            array = np.array(values, np.object_)
        else:
            kind = draw(NUMBERS)
            values = draw(st.lists(st.integers(-3, 300) | st.floats(width=32), min_size=size))
            with np.errstate(all="ignore"):
                array = np.array(values[:size], np.float64).astype(kind)
        shape = draw(st.sampled_from([(-1,), (1, -1), (-1, 1)]))
        made.append(Tensor(field.name, array.reshape(shape)))
    return made


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_tensors_and_parameters_of_any_kind(make_engine, layout):
    bridge = Bridge(make_engine(max_seq_len=24), layout, 4, "m", PB_UTILS, lambda reason: None)
    seen = {"refused": 0, "answered": 0}

    @fuzzing(400)
    @given(data=st.data())
    def ask(data):
        request = Request(data.draw(TEXTS), text_input=data.draw(STRINGS))
        more = data.draw(tensors(layout))
        named = {tensor.name(): tensor for tensor in [*request.inputs(), *more]}
        request.inputs = lambda: list(named.values())
        bridge.put(request)
        error = request.answer().error
        assert error is None or error.kind == Error.INVALID_ARG, error.message
        assert error is None or (error.message and "\n" not in error.message.strip()[:1])
        seen["answered" if error is None else "refused"] += 1

    try:
        ask()
        good = Request('{"max_tokens": 2, "ignore_eos": true}', text_input="hello")
        bridge.put(good)
        assert good.answer().error is None
        assert bridge._scheduler.metrics().internal_errors == 0
        report(f"requests of layout {layout.name}", sum(seen.values()), f"{seen}")
        assert min(seen.values()) > 0, seen
    finally:
        bridge.close()


CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "max_new_tokens": st.integers(-1, 4) | VALUES,
        **{
            name: VALUES | st.lists(SCALARS, max_size=4)
            for name in GenerationConfig.__dataclass_fields__
            if name != "max_new_tokens"
        },
    },
)
PROMPTS = st.one_of(
    st.text(max_size=30),
    st.lists(st.integers(-1, 300), max_size=30),
    st.lists(VALUES, max_size=3),
    st.binary(max_size=5),
    VALUES,
    st.sampled_from([np.zeros((2, 2), int), np.arange(3.0), np.array([2**63], np.uint64), object]),
)


def test_configs_of_any_values():
    seen = Counter()

    @fuzzing(400)
    @given(values=CONFIGS)
    def make(values):
        refusal = None
        try:
            config = GenerationConfig(**values)
        except RiverError as error:
            refusal = error
        assert len(str(refusal)) < 2000 if refusal else config.max_new_tokens >= 1
        seen["refused" if refusal else "read"] += 1

    make()
    report("configs", seen.total(), f"{dict(seen)}")
    assert set(seen) == {"refused", "read"}


def test_prompts_and_configs_of_any_values_in_a_server(make_engine):
    engine, seen = make_engine(max_seq_len=24), Counter()

    @fuzzing(400)
    @given(prompt=PROMPTS, values=CONFIGS, length=st.integers(1, 3))
    def ask(prompt, values, length):
        async def generate():
            async with engine.serve() as server:
                try:
                    config = GenerationConfig(**(values | {"max_new_tokens": length}))
                    await server.generate(prompt, config)
                    seen["answered"] += 1
                except RiverError:
                    seen["refused"] += 1
                await server.generate([1], GenerationConfig(max_new_tokens=1))
                return server.metrics

        metrics = asyncio.run(generate())
        assert (metrics.internal_errors, metrics.failed) == (0, 0)

    ask()
    report("requests of Engine.serve", seen.total(), f"{dict(seen)}")
    assert set(seen) == {"refused", "answered"}
