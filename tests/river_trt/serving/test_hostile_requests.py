"""What one request brings about ends that request: the others, and the server, go on."""

import asyncio
import threading
from dataclasses import replace

import pytest

from river_trt import GenerationConfig, RiverError
from river_trt.errors import PromptError
from river_trt.faults import contained
from river_trt.serving import InternalError, RejectedError, ServerClosedError
from river_trt.serving.server import SHORT_PROMPT
from river_trt.text import TextStream, Tokenizer

GREEDY = GenerationConfig(max_new_tokens=6, ignore_eos=True)


class PanicError(BaseException):
    """As the panic of a Rust library arrives: no Exception."""


@pytest.fixture
def long_prompt(make_engine):
    """A prompt that fits the characters of the engine of `open_engine`, and is no short one."""
    return "x" * (SHORT_PROMPT + 1)


@pytest.fixture
def open_engine(make_engine):
    return make_engine(max_seq_len=SHORT_PROMPT * 2)


def drain(scheduler):
    deliveries = []
    while scheduler.has_work:
        deliveries += scheduler.step()
    return {d.request: d.item for d in deliveries if d.is_last}


def test_a_server_that_is_never_entered_leaves_the_engine_free(make_engine, reference):
    engine = make_engine()
    engine.serve()
    assert engine.generate([1], GREEDY)[0].token_ids == reference.greedy([1], 6)[0]

    async def serve():
        async with engine.serve() as server:
            return await server.generate([1], GREEDY)

    assert asyncio.run(serve()).token_ids == reference.greedy([1], 6)[0]


def test_entering_a_server_of_a_busy_engine_is_refused(make_engine):
    engine = make_engine()

    async def serve():
        async with engine.serve(), engine.serve():
            pass

    with pytest.raises(RiverError, match="busy"):
        asyncio.run(serve())


@pytest.mark.parametrize(
    "error", [PanicError("index out of bounds"), RecursionError(), KeyError(1)]
)
def test_any_error_while_a_request_is_read_is_its_own(make_engine, monkeypatch, error):
    encode = Tokenizer.encode

    def broken(self, text, **options):
        if text == "bad":
            raise error
        return encode(self, text, **options)

    monkeypatch.setattr(Tokenizer, "encode", broken)

    async def serve():
        async with make_engine().serve(max_batch_size=1, max_queue=0) as server:
            for _ in range(3):  # each gives its place back
                with pytest.raises(InternalError, match=type(error).__name__):
                    await server.generate("bad", GREEDY)
                await server.generate("good", GREEDY)
            return server.metrics

    metrics = asyncio.run(serve())
    assert (metrics.internal_errors, metrics.completed, metrics.invalid) == (3, 3, 0)


@pytest.mark.parametrize("mode", ["river", "lossless"])
@pytest.mark.parametrize("at", [1, 3])  # after the prefill, among the decode steps
def test_any_error_of_one_row_is_its_own(make_engine, monkeypatch, reference, mode, at):
    scheduler = make_engine().scheduler()
    config = replace(GREEDY, mode=mode)
    requests = [scheduler.submit([i], config) for i in range(3)]
    push, pushed = TextStream.push, []

    def panic(self, token):
        if self is requests[1].row.text:
            pushed.append(token)
            if len(pushed) == at:
                raise PanicError("a byte too many")
        return push(self, token)

    monkeypatch.setattr(TextStream, "push", panic)
    items = drain(scheduler)
    assert isinstance(items[requests[1]], RiverError)
    assert "PanicError: a byte too many" in str(items[requests[1]])
    for i in (0, 2):
        assert items[requests[i]].result.token_ids == reference.greedy([i], 6, 2.0)[0]
    assert scheduler.metrics().failed == 1


def test_a_foreign_panic_in_a_step_ends_its_rows(make_engine, monkeypatch, reference):
    engine = make_engine()
    scheduler = engine.scheduler()
    step = engine.stepper.session.step

    def panic(*args):
        raise PanicError("poisoned")

    lost = scheduler.submit([3], GREEDY)
    monkeypatch.setattr(engine.stepper.session, "step", panic)
    assert "PanicError: poisoned" in str(drain(scheduler)[lost])
    monkeypatch.setattr(engine.stepper.session, "step", step)
    request = scheduler.submit([2], GREEDY)
    assert drain(scheduler)[request].result.token_ids == reference.greedy([2], 6)[0]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_our_own_process_is_not_swallowed(kind):
    with pytest.raises(kind):
        contained(kind())


def test_a_dead_worker_is_told_with_its_reason(make_engine, monkeypatch):
    def explode():
        raise AssertionError("a bug")

    async def serve():
        async with make_engine().serve() as server:
            assert server.failure is None
            monkeypatch.setattr(server._scheduler, "step", explode)
            for _ in range(2):  # the one that meets it, and one that comes after
                with pytest.raises(ServerClosedError, match="worker died: AssertionError: a bug"):
                    await asyncio.wait_for(server.generate("a", GREEDY), 20)
            return server.failure

    assert asyncio.run(serve()) == "the server's worker died: AssertionError: a bug"


def test_long_prompts_are_tokenised_beside_the_loop(open_engine, long_prompt, monkeypatch):
    encode, go_on = Tokenizer.encode, threading.Event()

    def held(self, text, **options):
        if len(text) > SHORT_PROMPT:
            assert go_on.wait(20)
        return encode(self, text, **options)

    monkeypatch.setattr(Tokenizer, "encode", held)

    async def serve():
        async with open_engine.serve() as server:
            slow = [asyncio.create_task(server.generate(long_prompt, GREEDY)) for _ in range(4)]
            await asyncio.sleep(0)
            short = await server.generate("a", GREEDY)
            assert not any(task.done() for task in slow)
            go_on.set()
            return short, await asyncio.gather(*slow)

    short, slow = asyncio.run(serve())
    assert len(short.token_ids) == 6 and [r.prompt_tokens for r in slow] == [len(long_prompt)] * 4


def test_prompts_that_are_being_read_count_as_requests(open_engine, long_prompt, monkeypatch):
    go_on = threading.Event()
    encode = Tokenizer.encode

    def held(self, text, **options):
        assert go_on.wait(20)
        return encode(self, text, **options)

    monkeypatch.setattr(Tokenizer, "encode", held)

    async def serve():
        async with open_engine.serve(max_batch_size=1, max_queue=1) as server:
            tasks = [asyncio.create_task(server.generate(long_prompt, GREEDY)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(RejectedError):
                await server.generate([1], GREEDY)
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            await server.generate([1], GREEDY)  # in the place of the cancelled one
            go_on.set()
            await tasks[1]

    asyncio.run(serve())


def test_a_prompt_of_megabytes_is_refused_before_it_is_tokenised(make_engine, monkeypatch):
    def never(self, text, **options):
        raise AssertionError("tokenised")

    monkeypatch.setattr(Tokenizer, "encode", never)
    rule = "16000000 characters, and one of more than 1024 is not tokenised: the cache has 64 slots"
    with pytest.raises(PromptError, match=rule):
        make_engine().generate("word" * 4_000_000)
    with pytest.raises(PromptError, match="the prompt has 1000000 tokens but the cache has 64"):
        make_engine().generate([[1] * 1_000_000])


def test_the_longest_prompt_that_can_fit_is_taken(make_engine):
    engine = make_engine(max_seq_len=40)
    assert engine.tokenizer.longest_token == len("<|im_start|>")
    result = engine.generate("<|im_start|>" * 39, GREEDY)[0]
    assert result.prompt_tokens == 39


class Recorder:
    """A tokenizer that says how it was called."""

    def __init__(self, raw):
        self.raw, self.calls = raw, []

    def __getattr__(self, name):
        self.calls.append(name)
        return getattr(self.raw, name)


def test_a_long_text_is_tokenised_without_pythons_lock(raw_tokenizer):
    """`encode` of the library keeps it, which would stop every other thread meanwhile."""
    tokenizer = Tokenizer(raw_tokenizer)
    text = "wörd " * 2000
    recorder = tokenizer.raw = Recorder(raw_tokenizer)
    assert tokenizer.encode(text) == raw_tokenizer.encode(text).ids
    assert recorder.calls == ["encode_batch_fast"]


def test_text_that_utf8_cannot_hold_is_refused(make_engine):
    with pytest.raises(PromptError, match="a lone surrogate at 3"):
        make_engine().generate("abc\ud800")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop": ["x"] * 300_000}, "stop may hold 128 values, got 300000"),
        ({"stop": ["x" * 2000]}, "a string in stop may have 1024 characters, got 2000"),
        ({"stop": 5}, "stop must be a list, got 5"),
        ({"stop_token_ids": [1] * 5000}, "stop_token_ids may hold 4096 values, got 5000"),
        ({"pinned": 3}, "pinned must be a list, got 3"),
        ({"tau": [1.0] * 5000}, "tau may hold 4096 values"),
        ({"tau": [10**400]}, "tau must be a number or a list of numbers"),
        ({"temperature": 10**400}, "temperature must be a number at least 0, got 1000"),
        ({"top_k": -(10**5000)}, "top_k must be .* got a number of thousands of digits"),
        ({"mode": ["river"]}, "mode must be one of"),
        ({"stop": [""] * 3}, "stop must be strings that are not empty"),
    ],
)
def test_values_of_any_kind_and_size_are_refused_in_one_short_line(changes, message):
    with pytest.raises(RiverError, match=message) as error:
        GenerationConfig(**changes)
    assert len(str(error.value)) < 400
