"""A real tritonserver over a tiny engine: what clients send and get, and what goes wrong."""

import concurrent.futures
import json
import time

import pytest

from river_trt import GenerationConfig
from tests.river_trt.triton.clients import (
    generate,
    grpc_stream,
    metrics,
    stream,
    tensor,
    text_of,
)

LENGTH = 24
ENDLESS = 24  # requests that are left in the middle
BODY = {"text_input": "hello", "max_tokens": LENGTH, "exclude_input_in_output": True}


def config(**changes):
    return GenerationConfig(**{"max_new_tokens": LENGTH} | changes)


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def test_generate_gives_the_runtimes_text(server, runtime):
    result = runtime.generate("hello", config())[0]
    status, answer = generate(server, BODY)
    assert (status, answer["text_output"]) == (200, result.text)
    status, answer = generate(server, {"text_input": "hello", "max_tokens": LENGTH})
    assert (status, answer["text_output"]) == (200, "hello" + result.text)
    assert "finish_reason" not in answer


def test_vllms_own_example_request(server, runtime):
    text = runtime.generate("hello", config(temperature=0.9, seed=4))[0].text
    parameters = {"stream": False, "temperature": 0.9, "seed": 4, "max_tokens": LENGTH}
    status, answer = generate(server, {"text_input": "hello", "parameters": parameters})
    assert (status, answer.get("text_output")) == (200, "hello" + text), answer


def test_counts_finish_reason_and_exit_statistics(server, runtime):
    names = ("finish_reason", "num_input_tokens", "num_output_tokens", "exit_statistics")
    result = runtime.generate("hello", config(ignore_eos=True, tau=0.2, pinned=[]))[0]
    sampling = json.dumps({"ignore_eos": True, "tau": 0.2, "pinned": []})
    body = BODY | {f"return_{name}": True for name in names} | {"sampling_parameters": sampling}
    answer = generate(server, body)[1]
    assert (answer["text_output"], answer["finish_reason"]) == (result.text, "length")
    assert (answer["num_input_tokens"], answer["num_output_tokens"]) == (5, LENGTH)
    assert answer["exit_layers"] == result.exit_layers.tolist()
    assert answer["mean_backbone_layers"] == pytest.approx(result.backbone_layers.mean())


def test_lossless_request_gives_the_full_depth_text(server, runtime):
    rounds = metrics(server).get("lossless_rounds_total", 0.0)
    text = runtime.generate("hello", config(ignore_eos=True, mode="full"))[0].text
    for extra in ({"mode": "lossless"}, {"mode": "lossless", "max_draft_tokens": 2}):
        status, answer = generate(server, BODY | {"ignore_eos": True} | extra)
        assert (status, answer.get("text_output")) == (200, text), answer
    status, answer = generate(server, BODY | {"mode": "lossless", "tau": 0.5})
    assert status == 400 and "tau 0.5 is for the mode 'river'" in answer["error"]
    wait_for(lambda: metrics(server).get("lossless_rounds_total", 0.0) > rounds)


def test_stream_over_sse(server, runtime):
    result = runtime.generate("hello", config(ignore_eos=True))[0]
    body = BODY | {"ignore_eos": True, "return_num_output_tokens": True}
    events = list(stream(server, body | {"return_finish_reason": True}))
    assert "".join(event["text_output"] for event in events) == result.text
    assert sum(event["num_output_tokens"] for event in events) == LENGTH
    assert [event["finish_reason"] for event in events[-2:]] == ["", "length"]
    assert len(events) > 1


def test_multiplexed_requests_over_one_grpc_stream(server, runtime):
    prompts = [f"prompt {i} " * (1 + i % 5) for i in range(16)]
    with grpc_stream(server) as opened:
        for i, prompt in enumerate(prompts):
            sampling = {"max_tokens": 8 + i, "temperature": [0, 0.8][i % 2], "seed": i}
            inputs = [
                tensor("text_input", prompt, "BYTES"),
                tensor("stream", True, "BOOL"),
                tensor("sampling_parameters", json.dumps(sampling), "BYTES"),
            ]
            opened.send(inputs, str(i), "river_llm")
        found = opened.collect(len(prompts))
    for i, prompt in enumerate(prompts):
        made = config(max_new_tokens=8 + i, temperature=[0, 0.8][i % 2], seed=i)
        assert text_of(found[str(i)]) == runtime.generate(prompt, made)[0].text


def test_trtllm_layout_over_grpc_and_http(server, runtime):
    made = config(temperature=0.8, seed=3, stop="xx", tau=0.3)
    text = runtime.generate("hello", made)[0].text
    kinds = {"text_input": "BYTES", "max_tokens": "INT32", "temperature": "FP32", "tau": "FP32"}
    body = {"text_input": "hello", "max_tokens": LENGTH, "temperature": 0.8, "tau": 0.3}
    body |= {"random_seed": 3, "stop_words": "xx", "bad_words": ""}
    status, answer = generate(server, body, "ensemble")
    assert (status, answer["text_output"]) == (200, text)
    greedy = runtime.generate("hello", config(tau=0.3))[0].text
    with grpc_stream(server) as opened:
        body["temperature"] = 0.0
        inputs = [tensor(name, body[name], kind, batched=True) for name, kind in kinds.items()]
        opened.send(inputs, "1", "ensemble")
        assert text_of(opened.collect(1)["1"]) == greedy


def test_more_clients_than_rows(server, runtime):
    def ask(i):
        prompt = "x" * (1 + 7 * (i % 9))
        return prompt, generate(server, BODY | {"text_input": prompt, "max_tokens": 5 + i})

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(24)))
    for i, (prompt, (status, answer)) in enumerate(answers):
        expected = runtime.generate(prompt, config(max_new_tokens=5 + i))[0].text
        assert (status, answer["text_output"]) == (200, expected)


def test_admission_limit_is_said_and_the_rest_is_served(server):
    def ask(i):
        return generate(server, BODY | {"ignore_eos": True, "max_tokens": 200})

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(ask, range(64)))
    refused = [answer for status, answer in answers if status != 200]
    assert refused and all("the server is full: 4 requests run" in a["error"] for a in refused)
    assert len(refused) < 64 - 4
    wait_for(lambda: metrics(server)["requests_rejected_total"] >= len(refused))


def test_clients_that_go_away_free_their_rows(server):
    before = metrics(server).get("requests_cancelled_total", 0)
    endless = BODY | {"ignore_eos": True, "max_tokens": 100_000}
    events = stream(server, endless)
    next(events)
    events.close()
    with grpc_stream(server) as opened:
        inputs = [
            tensor("text_input", "hello", "BYTES"),
            tensor("stream", True, "BOOL"),
            tensor("sampling_parameters", '{"max_tokens": 100000, "ignore_eos": true}', "BYTES"),
        ]
        for number in range(ENDLESS):
            opened.send(inputs, str(number), "river_llm")
        assert opened.answers.get(timeout=30)[1] is None
    # The cache fills quickly: of so many some wait or run when the server notices.
    wait_for(lambda: metrics(server)["requests_cancelled_total"] > before)
    wait_for(lambda: metrics(server)["running_requests"] == 0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text_input": ""}, "text_input: the prompt is empty"),
        ({"text_input": "x" * 600}, "text_input: the prompt has 600 tokens"),
        ({"max_tokens": 3}, "text_input"),
        (BODY | {"max_tokens": "many"}, "max_tokens must be a whole number"),
        (BODY | {"max_tokens": 0}, "max_tokens"),
        (BODY | {"temperature": -1}, "temperature must be"),
        (BODY | {"temprature": 1}, "temprature is no parameter"),
        (BODY | {"tau": [0.1, 0.2]}, "tau has 2 values"),
        (BODY | {"colour": ["red"]}, "colour"),
        (BODY | {"sampling_parameters": "{"}, "sampling_parameters is no JSON"),
        (b"no json", "failed to parse the request JSON"),
    ],
)
def test_bad_request_names_the_field_and_the_server_stays(server, runtime, body, message):
    status, answer = generate(server, body)
    assert status != 200 and message in answer["error"], answer
    assert generate(server, BODY)[1]["text_output"] == runtime.generate("hello", config())[0].text


def test_bad_request_over_grpc(server):
    with grpc_stream(server) as opened:
        opened.send([tensor("stream", True, "BOOL")], "1", "river_llm")
        (error,) = opened.collect(1)["error"]
        assert "text_input" in str(error) or "expected" in str(error)
        inputs = [tensor("text_input", "a", "BYTES"), tensor("pinned", [9], "INT32")]
        opened.send(inputs, "2", "river_llm")
        (error,) = opened.collect(1)["error"]
        assert "pinned layer 9 is not one of the layers 1..3" in str(error)


def test_metrics_add_up(server):
    wait_for(lambda: metrics(server)["running_requests"] == 0)
    time.sleep(1)  # the reporting interval
    before = metrics(server)
    generate(server, BODY | {"ignore_eos": True})
    wait_for(lambda: metrics(server)["decode_tokens_total"] == before["decode_tokens_total"] + 23)
    after = metrics(server)
    assert after["requests_completed_total"] == before["requests_completed_total"] + 1
    assert after["prompt_tokens_total"] == before["prompt_tokens_total"] + 5
    assert after["latency_seconds_total"] > before["latency_seconds_total"]
    assert 1 <= after["mean_backbone_layers"] <= 3


def test_index_says_that_the_models_are_ready(server):
    index = {entry["name"]: entry["state"] for entry in server.index()}
    assert index == {"river_llm": "READY", "ensemble": "READY"}
