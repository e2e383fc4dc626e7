"""The bridge's threads under hostile requests, without a server; test_triton_hostile.py has one."""

import queue
import threading

import pytest

from river_trt.text import Tokenizer
from river_trt.triton.bridge import SHORT_REQUEST, UNLOADED, Bridge
from river_trt.triton.fields import VLLM
from tests.river_trt.triton.triton_double import PB_UTILS, Error, Request


class PanicError(BaseException):
    """As the panic of a Rust library arrives: no Exception."""


@pytest.fixture
def deaths():
    return queue.SimpleQueue()


@pytest.fixture
def bridge(make_engine, deaths):
    engine = make_engine(max_seq_len=SHORT_REQUEST * 2, max_batch_size=2)
    opened = Bridge(engine, VLLM, 2, "river_llm", PB_UTILS, deaths.put)
    yield opened
    opened.close()


def good() -> Request:
    return Request('{"max_tokens": 3, "ignore_eos": true}', text_input="hello")


def assert_serves(bridge: Bridge) -> None:
    request = good()
    bridge.put(request)
    response = request.answer()
    assert response.error is None and response.outputs["text_output"]


def refusal(bridge: Bridge, request: Request) -> Error:
    """The error that a request is answered with; the next request must be served."""
    bridge.put(request)
    error = request.answer().error
    assert error is not None and len(error.message) <= 1000
    assert_serves(bridge)
    return error


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("[" * 100_000, "sampling_parameters nests deeper than 64 lists and objects"),
        ('{"a":' * 40_000, "sampling_parameters nests deeper than 64"),
        ('{"stop": "' + "x" * 2_000_000 + '"}', "may have 1048576 characters, got 2000012"),
        ('{"\\ud800":1}', "\\ud800 is no parameter of this model"),
        ('{"mode": "\\udfff"}', "mode must be one of river, lossless, full"),
        ('{"max_tokens": ' + "9" * 5000 + "}", "sampling_parameters is no JSON"),
        ('{"seed": 1e400}', "seed must be a whole number"),
        ('{"' + "k" * 200_000 + '": 1}', "kkk is no parameter of this model; it takes max_tokens"),
    ],
)
def test_hostile_parameters_are_refused_by_name(bridge, parameters, message):
    error = refusal(bridge, Request(text_input="w1", sampling_parameters=parameters))
    assert error.kind == Error.INVALID_ARG
    assert message in error.message
    assert bridge._scheduler.metrics().invalid == 1


@pytest.mark.parametrize("text", ["a", "a" * (SHORT_REQUEST + 1)])  # read in place, and beside
@pytest.mark.parametrize("kind", [PanicError, RecursionError])
def test_whatever_reading_raises_is_answered_and_counted(bridge, monkeypatch, text, kind):
    encode = Tokenizer.encode

    def broken(self, given, **options):
        if given == text:
            raise kind("\ud800")
        return encode(self, given, **options)

    monkeypatch.setattr(Tokenizer, "encode", broken)
    error = refusal(bridge, Request(text_input=text))
    assert error.kind == Error.INTERNAL and kind.__name__ in error.message
    assert bridge._scheduler.metrics().internal_errors == 1


def test_inputs_that_cannot_be_fetched_are_answered(bridge):
    request = Request(text_input="a")
    request.inputs = lambda: 1 / 0
    assert "ZeroDivisionError" in refusal(bridge, request).message


def test_a_response_that_cannot_be_sent_ends_its_request(bridge):
    request = good()
    request.sender.broken = PanicError("shared memory is full")
    assert "shared memory is full" in refusal(bridge, request).message
    assert bridge._scheduler.metrics().internal_errors == 1


def test_a_full_model_refuses_without_reading(bridge, monkeypatch):
    go_on, encode = threading.Event(), Tokenizer.encode

    def held(self, text, **options):
        assert go_on.wait(20)
        return encode(self, text, **options)

    monkeypatch.setattr(Tokenizer, "encode", held)
    slow = [Request('{"max_tokens": 1}', text_input="x" * (SHORT_REQUEST + 1)) for _ in range(4)]
    for request in slow:
        bridge.put(request)
    one_more = Request(text_input="x" * (SHORT_REQUEST + 1))
    bridge.put(one_more)
    assert one_more.answer().error.kind == Error.UNAVAILABLE
    go_on.set()
    assert all(request.answer().error is None for request in slow)


def test_a_long_prompt_does_not_hold_up_a_short_one(bridge, monkeypatch):
    go_on, encode = threading.Event(), Tokenizer.encode

    def held(self, text, **options):
        assert len(text) < SHORT_REQUEST or go_on.wait(20)
        return encode(self, text, **options)

    monkeypatch.setattr(Tokenizer, "encode", held)
    slow = Request('{"max_tokens": 1}', text_input="x" * (SHORT_REQUEST + 1))
    bridge.put(slow)
    assert_serves(bridge)
    assert slow.sender.responses.empty()
    go_on.set()
    assert slow.answer().error is None


def test_a_dead_worker_tells_every_request_and_the_model(bridge, deaths, monkeypatch):
    def explode(self):
        raise AssertionError("a bug")

    monkeypatch.setattr(Bridge, "_drop_cancelled", explode)
    reason = "the model's worker died: AssertionError: a bug"
    for _ in range(2):  # the one that meets it, and one that comes after
        request = Request('{"max_tokens": 50, "ignore_eos": true}', text_input="a")
        bridge.put(request)
        error = request.answer().error
        assert (error.kind, error.message.endswith(reason)) == (Error.UNAVAILABLE, True)
    assert deaths.get(timeout=20) == bridge.failure == reason


def test_unloading_is_no_death(make_engine, deaths):
    opened = Bridge(make_engine(), VLLM, 2, "river_llm", PB_UTILS, deaths.put)
    opened.close()
    request = good()
    opened.put(request)
    error = request.answer().error
    assert (error.kind, error.message) == (Error.UNAVAILABLE, UNLOADED)
    assert deaths.empty() and opened.failure is None
