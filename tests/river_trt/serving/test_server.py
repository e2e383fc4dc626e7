import asyncio
import threading
from dataclasses import replace

import pytest

from river_trt import GenerationConfig, RiverError
from river_trt.serving import RejectedError, ServerClosedError

GREEDY = GenerationConfig(max_new_tokens=12, ignore_eos=True)
ENDLESS = replace(GREEDY, max_new_tokens=10_000)


def test_concurrent_requests_give_what_generate_gives(make_engine):
    prompts = [f"prompt {i} " * (1 + i % 3) for i in range(12)]

    async def serve():
        async with make_engine(max_batch_size=3, prefill_chunk=5).serve() as server:
            results = await asyncio.gather(*(server.generate(p, GREEDY) for p in prompts))
            return results, server.metrics

    results, metrics = asyncio.run(serve())
    alone = make_engine(prefill_chunk=5).generate(prompts, GREEDY)
    assert [r.text for r in results] == [r.text for r in alone]
    assert metrics.completed == 12 and metrics.mean_batch_size > 1.5


def test_stream_yields_tokens_and_ends_with_the_result(make_engine):
    async def serve():
        async with make_engine().serve() as server:
            return [event async for event in server.stream("hello", GREEDY)]

    events = asyncio.run(serve())
    alone = make_engine().generate("hello", GREEDY)[0]
    assert [e.token_id for e in events] == alone.token_ids
    assert "".join(e.text for e in events) == alone.text == events[-1].result.text


def test_leaving_a_stream_and_cancelling_a_task_free_the_place(make_engine):
    async def serve():
        async with make_engine(max_batch_size=1, max_seq_len=4096).serve(max_queue=2) as server:
            stream = server.stream("a", ENDLESS)
            async for _ in stream:
                break
            task = asyncio.create_task(server.generate("b", ENDLESS))
            await asyncio.sleep(0)
            task.cancel()
            await stream.aclose()
            with pytest.raises(asyncio.CancelledError):
                await task
            result = await server.generate("c", GREEDY)
            return result, server.metrics

    result, metrics = asyncio.run(serve())
    assert result.token_ids == make_engine().generate("c", GREEDY)[0].token_ids
    assert (metrics.cancelled, metrics.completed) == (2, 1)


def test_full_server_rejects_and_goes_on(make_engine, monkeypatch):
    engine, go_on = make_engine(max_batch_size=1), threading.Event()
    step = engine.stepper.session.step

    def held(*args):
        assert go_on.wait(20)
        return step(*args)

    monkeypatch.setattr(engine.stepper.session, "step", held)

    async def serve():
        async with engine.serve(max_queue=0) as server:
            running = asyncio.create_task(server.generate("a", GREEDY))
            await asyncio.sleep(0)
            with pytest.raises(RejectedError, match="full"):
                await server.generate("b", GREEDY)
            go_on.set()
            await running
            with pytest.raises(RiverError, match="the prompt is empty"):
                await server.generate("", GREEDY)
            return await server.generate("b", GREEDY)

    assert asyncio.run(serve()).text == make_engine().generate("b", GREEDY)[0].text


def test_closing_ends_what_is_open_and_frees_the_engine(make_engine):
    engine = make_engine(max_seq_len=64)

    async def serve():
        server = engine.serve()
        with pytest.raises(RiverError, match="not open"):
            await server.generate("a", GREEDY)
        async with server:
            # One that is still waiting, so that it cannot be done before the close.
            tasks = [asyncio.create_task(server.generate("a", ENDLESS)) for _ in range(20)]
            await asyncio.sleep(0)
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(serve())
    assert any(isinstance(outcome, ServerClosedError) for outcome in outcomes)
    assert engine.generate("a", GREEDY)[0].token_ids


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_broken_worker_ends_the_requests_instead_of_hanging(make_engine, monkeypatch):
    engine = make_engine()

    def explode():
        raise AssertionError("a bug")

    async def serve():
        async with engine.serve() as server:
            monkeypatch.setattr(server._scheduler, "step", explode)
            with pytest.raises(ServerClosedError):
                await asyncio.wait_for(server.generate("a", GREEDY), 20)

    asyncio.run(serve())
