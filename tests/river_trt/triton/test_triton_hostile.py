"""A real tritonserver among requests that want to hurt it."""

import itertools
import json
import time
import urllib.request

import psutil
import pytest
import tritonclient.grpc as grpcclient

from river_trt.triton.repository import ExportOptions, export
from river_trt.triton.watch import Watch
from scripts.hostile_requests import BODIES, PATHS, hostile_requests
from tests.river_trt.triton.clients import generate, post

BODY = {"text_input": "hello", "max_tokens": 4, "exclude_input_in_output": True}
BROKEN_MODEL = """
from river_trt.triton.bridge import Bridge
from river_trt.triton.python_model import TritonPythonModel

send = Bridge._send


def broken(self, deliveries):
    send(self, deliveries)
    if any(delivery.request.row.config.seed == 666 for delivery in deliveries):
        raise AssertionError("a bug")


Bridge._send = broken
"""


def is_ready(server, path="/v2/health/ready") -> bool:
    try:
        urllib.request.urlopen(server.url + path, timeout=20).close()
    except urllib.error.HTTPError:
        return False
    return True


def kill_stub(server) -> None:
    """The only one that lives; the server leaves the dead ones as zombies."""
    children = psutil.Process(server.pid).children()
    (stub,) = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
    stub.kill()
    while stub.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)


def resident(server) -> int:
    process = psutil.Process(server.pid)
    return sum(p.memory_info().rss for p in (process, *process.children(recursive=True)))


def test_after_each_of_200_hostile_requests_a_good_one_is_answered(server, runtime):
    expected = generate(server, BODY)[1]["text_output"]
    kinds = len(BODIES) + 5
    memory = 0
    endings = {}
    for number, (kind, ending) in enumerate(itertools.islice(hostile_requests(server, 1), 200)):
        endings.setdefault(kind, set()).add(ending)
        assert ending != "HANGING", kind
        status, answer = generate(server, BODY)
        assert (status, answer.get("text_output")) == (200, expected), (kind, ending, answer)
        if number == 2 * kinds:  # the pools of all allocators have seen every kind
            memory = resident(server)
    assert len(endings) == kinds
    assert is_ready(server) and is_ready(server, "/v2/models/river_llm/ready")
    assert {e["state"] for e in server.index()} == {"READY"}
    assert resident(server) < 1.25 * memory


@pytest.mark.parametrize(
    "path", [path for path in PATHS if "repository" in path or "shared" in path]
)
def test_clients_may_not_manage_the_server(server, path):
    assert post(server, path.removeprefix("/v2/"), {})[0] == 403
    assert generate(server, BODY)[0] == 200


def test_clients_may_not_manage_the_server_over_grpc(server):
    client = grpcclient.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
    for refused in (
        lambda: client.unload_model("river_llm"),
        lambda: client.load_model("river_llm"),
        lambda: client.register_system_shared_memory("a", "/river", 64),
        lambda: client.update_log_settings({"log_verbose_level": 9}),
        lambda: client.update_trace_settings(None, {"trace_file": "/tmp/trace"}),
    ):
        with pytest.raises(grpcclient.InferenceServerException):
            refused()
    client.close()
    assert generate(server, BODY)[0] == 200


def test_a_killed_process_turns_its_model_unready_and_is_started_again(
    start_server, settings, tmp_path, monkeypatch
):
    """tritonserver alone calls such a model ready for ever."""
    monkeypatch.setattr("river_trt.triton.watch.MOST_STARTS", 1)
    export(ExportOptions(settings, tmp_path))
    with start_server(tmp_path) as server:
        watch = Watch(server)
        assert watch.look() == []
        kill_stub(server)
        assert generate(server, BODY)[0] != 200
        assert watch.look() == ["river_llm: its process ended; it is loaded again"]
        assert is_ready(server) and generate(server, BODY)[0] == 200
        assert watch.look() == []
        kill_stub(server)
        (line,) = watch.look()
        assert "after 1 new starts; it is unloaded" in line and watch.look() == []
        assert not is_ready(server, "/v2/models/river_llm/ready")


def test_a_dead_worker_turns_the_model_unready_with_its_reason(start_server, settings, tmp_path):
    export(ExportOptions(settings, tmp_path))
    broken = export(ExportOptions(settings, tmp_path, name="broken"))
    with (broken / "1" / "model.py").open("a") as file:
        file.write(BROKEN_MODEL)
    with start_server(tmp_path) as server:
        assert generate(server, BODY, "broken")[0] == 200
        assert is_ready(server) and is_ready(server, "/v2/models/broken/ready")
        fatal = BODY | {"max_tokens": 400, "ignore_eos": True}
        fatal["sampling_parameters"] = json.dumps({"seed": 666})
        status, answer = generate(server, fatal, "broken")
        assert status != 200 and "worker died: AssertionError: a bug" in answer["error"]
        deadline = time.monotonic() + 60
        index = {}
        while "a bug" not in index.get("broken", {}).get("reason", ""):
            assert time.monotonic() < deadline, index
            time.sleep(0.1)
            index = {entry["name"]: entry for entry in server.index()}
        assert index["broken"]["state"] == "UNAVAILABLE"
        assert not is_ready(server, "/v2/models/broken/ready") and not is_ready(server)
        assert generate(server, BODY, "broken")[0] != 200
        assert index["river_llm"]["state"] == "READY" and generate(server, BODY)[0] == 200
