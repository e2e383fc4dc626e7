"""Keys, limits, clients that leave, logs, metrics, hostile bodies: a running server."""

import json
import logging
import socket
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest

from river_trt.errors import RiverError
from river_trt.openai.settings import ServeSettings
from river_trt.serving.scheduler import Scheduler
from tests.river_trt.openai.conftest import client_of

ASK = {"prompt": "hello", "max_tokens": 4}


def metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def wait_for(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never happened")


def test_keys(start):
    served = start(api_keys=("first", "second"))
    for key in ("first", "second"):
        assert client_of(served.url, key).completions.create(model="tiny", **ASK).choices
    for key in ("firs", "third", "firstfirst"):
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.post(f"{served.url}/v1/completions", json=ASK, headers=headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["type"] == "authentication_error"
    assert httpx.get(f"{served.url}/metrics").status_code == 401
    for path in ("health", "ready"):
        assert httpx.get(f"{served.url}/{path}").status_code == 200


@pytest.mark.parametrize("announced", [True, False])
def test_a_long_body_is_refused(start, announced):
    served = start(max_body_bytes=2000)
    body = json.dumps(ASK | {"prompt": "x" * 3000}).encode()

    def pieces():
        for at in range(0, len(body), 100):
            yield body[at : at + 100]

    answer = httpx.post(f"{served.url}/v1/completions", content=body if announced else pieces())
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == "the body may have 2000 bytes"


def test_a_full_server_says_when_to_come_again(start, monkeypatch):
    served = start(max_batch_size=1, max_queue=0)
    engine = served.engines["tiny"]
    step, gate = engine.stepper.session.step, threading.Event()

    def slow(given):
        gate.wait(20)
        return step(given)

    monkeypatch.setattr(engine.stepper.session, "step", slow)
    first = threading.Thread(
        target=lambda: httpx.post(f"{served.url}/v1/completions", json=ASK, timeout=30)
    )
    first.start()
    wait_for(lambda: metric(served.url, "vllm:num_requests_running") == 1)
    with pytest.raises(openai.RateLimitError) as caught:
        client_of(served.url).completions.create(model="tiny", **ASK)
    assert caught.value.response.headers["retry-after"] == "1"
    assert caught.value.body["code"] == "server_full"
    gate.set()
    first.join()
    assert metric(served.url, "river:requests_rejected_total") == 1


def test_a_request_that_takes_too_long_is_ended(start, monkeypatch):
    served = start(request_seconds=0.2)
    session = served.engines["tiny"].stepper.session
    step = session.step
    monkeypatch.setattr(session, "step", lambda given: (time.sleep(0.1), step(given))[1])
    long = {"prompt": "hello", "max_tokens": 60, "ignore_eos": True}
    answer = httpx.post(f"{served.url}/v1/completions", json=long, timeout=30)
    assert answer.status_code == 408 and answer.json()["error"]["code"] == "timeout"
    streamed = httpx.post(f"{served.url}/v1/completions", json=long | {"stream": True}, timeout=30)
    last = streamed.text.strip().splitlines()[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "timeout"
    wait_for(lambda: metric(served.url, "vllm:num_requests_running") == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels(start, monkeypatch, stream):
    served = start()
    session = served.engines["tiny"].stepper.session
    step = session.step
    monkeypatch.setattr(session, "step", lambda given: (time.sleep(0.05), step(given))[1])
    body = json.dumps({"prompt": "x", "max_tokens": 90, "ignore_eos": True, "stream": stream})
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body.encode())
        wait_for(lambda: metric(served.url, "vllm:num_requests_running") == 1)
    wait_for(lambda: metric(served.url, "river:requests_cancelled_total") == 1)
    assert metric(served.url, "vllm:num_requests_running") == 0


def test_tokens_both_ways(served):
    def ids(text):
        return served.engines["tiny"].tokenizer.encode(text, add_special_tokens=False)

    found = httpx.post(f"{served.url}/tokenize", json={"prompt": "hello"}).json()
    assert found == {"count": 5, "max_model_len": 96, "tokens": ids("hello")}
    plain = {"prompt": "hello", "add_special_tokens": False}
    assert httpx.post(f"{served.url}/tokenize", json=plain).json()["tokens"] == ids("hello")
    chat = {"messages": [{"role": "user", "content": "x"}]}
    assert httpx.post(f"{served.url}/tokenize", json=chat).json()["tokens"] == ids("u:x;a:")
    back = httpx.post(f"{served.url}/detokenize", json={"tokens": ids("hello")}).json()
    assert back == {"prompt": "hello"}
    for path, body in (
        ("tokenize", {}),
        ("tokenize", {"prompt": "x" * 10**5}),
        ("detokenize", {"tokens": [10**6]}),
    ):
        assert httpx.post(f"{served.url}/{path}", json=body).status_code == 400


def test_metrics_have_vllms_names(served):
    served.client.completions.create(model="tiny", prompt="hello", max_tokens=5)
    url = served.url
    assert metric(url, "vllm:prompt_tokens_total") == 5
    assert metric(url, "river:prefill_tokens_total") == 5
    assert metric(url, "river:prefill_seconds_total") > 0
    assert metric(url, "vllm:generation_tokens_total") == 5
    assert metric(url, "vllm:time_to_first_token_seconds_count") == 1
    assert metric(url, "vllm:inter_token_latency_seconds_count") == 4
    assert metric(url, "vllm:e2e_request_latency_seconds_count") == 1
    assert metric(url, "vllm:request_success_total") == 1
    assert metric(url, "river:backbone_layers_total") > 0


@pytest.mark.parametrize("as_json", [False, True])
def test_a_line_of_log_a_request(start, caplog, as_json):
    caplog.set_level(logging.INFO, "river_trt.serve")
    served = start(log_json=as_json)
    httpx.post(f"{served.url}/v1/completions", json=ASK)
    httpx.get(f"{served.url}/no%0Athing")
    wait_for(lambda: len(caplog.messages) >= 2)
    first, second = caplog.messages[:2]
    if as_json:
        line = json.loads(first)
        assert (line["status"], line["completion_tokens"], line["model"]) == (200, 4, "tiny")
        assert json.loads(second)["status"] == 404
    else:
        assert "path=/v1/completions status=200" in first and "completion_tokens=4" in first
        assert "status=404" in second and "\n" not in second


def test_no_origin_may_ask_from_a_browser_unless_named(start):
    headers = {"Origin": "https://a.example"}
    closed, opened = start(), start(cors=("https://a.example",))
    found = [httpx.get(f"{s.url}/v1/models", headers=headers).headers for s in (closed, opened)]
    assert "access-control-allow-origin" not in found[0]
    assert found[1]["access-control-allow-origin"] == "https://a.example"


HOSTILE = {
    "nothing": b"",
    "no JSON": b"{",
    "no object": b"[1]",
    "brackets": b"[" * 100_000,
    "objects": b'{"a":' * 50_000,
    "brackets in a field": b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "surrogates": b'{"prompt": "\\ud800"}',
    "a surrogate as a name": b'{"prompt": "x", "\\ud800": 1}',
    "bytes": b"\xff\xfe\x00",
    "a number without an end": b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
    "no number": b'{"prompt": "x", "temperature": NaN}',
    "infinite": b'{"prompt": "x", "max_tokens": 1e999}',
    "stop strings": json.dumps({"prompt": "x", "stop": ["s"] * 50_000}).encode(),
    "ids beyond": b'{"prompt": [99999999999999999999999]}',
    "mixed": b'{"prompt": ["a", 1]}',
    "no prompts": b'{"prompt": []}',
    "logprobs": b'{"prompt": "x", "logprobs": 1e9}',
    "a bias": b'{"prompt": "x", "logit_bias": {"1e3": 5}}',
    "biases": json.dumps({"prompt": "x", "logit_bias": dict.fromkeys(range(5000), 1)}).encode(),
    "a format": b'{"prompt": "x", "response_format": [[]]}',
    "a deep schema": b'{"prompt": "x", "response_format": {"type": "json_schema", "json_schema": '
    b'{"schema": ' + b'{"items": ' * 500 + b"{}" + b"}" * 503,
    "a template's argument": b'{"messages": [{"role": "user"}], "chat_template_kwargs": 5}',
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_hostile_bodies_are_answered_and_the_next_is_served(served, name, path):
    answer = httpx.post(served.url + path, content=HOSTILE[name], timeout=30)
    assert answer.status_code in (400, 413), answer.text
    error = answer.json()["error"]
    assert error["message"] and "\n" not in error["message"] and len(error["message"]) < 600
    assert served.client.completions.create(model="tiny", **ASK).usage.completion_tokens == 4
    assert metric(served.url, "river:internal_errors_total") == 0


def test_a_dead_worker_turns_readiness_false(served, monkeypatch):
    assert httpx.get(f"{served.url}/ready").json() == {"ready": True, "failed": {}}
    monkeypatch.setattr(Scheduler, "step", lambda self: 1 / 0)
    answer = httpx.post(f"{served.url}/v1/completions", json=ASK)
    assert answer.status_code == 503
    found = httpx.get(f"{served.url}/ready")
    assert found.status_code == 503 and "ZeroDivisionError" in found.json()["failed"]["tiny"]
    assert httpx.get(f"{served.url}/health").status_code == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engines": {}}, "give one engine directory"),
        ({"port": 70000}, "--port must be 0 to 65535"),
        ({"max_body_bytes": 5}, "--max-body-bytes must be at least 1024"),
        ({"request_seconds": 0.0}, "--request-seconds must be above 0"),
        ({"api_keys": ("a b",)}, "printable ASCII"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(RiverError, match=message):
        ServeSettings(**({"engines": {"a": Path("a")}} | changes))
