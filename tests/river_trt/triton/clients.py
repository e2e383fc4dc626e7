"""HTTP, SSE and gRPC clients of a LocalServer, with time limits."""

import json
import queue
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient

from river_trt.triton.local_server import LocalServer

TIMEOUT = 60  # seconds; a request that takes longer hangs


def post(server: LocalServer, path: str, body: Any) -> tuple[int, bytes]:
    """Status and body; `body` is JSON unless it is bytes already."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}/v2/{path}", data)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def generate(
    server: LocalServer, body: Any, model: str = "river_llm"
) -> tuple[int, dict[str, Any]]:
    status, answer = post(server, f"models/{model}/generate", body)
    return status, json.loads(answer)


def stream(server: LocalServer, body: Any, model: str = "river_llm") -> Iterator[dict[str, Any]]:
    """Events of generate_stream; closing the iterator closes the connection."""
    data = json.dumps(body | {"stream": True}).encode()
    url = f"{server.url}/v2/models/{model}/generate_stream"
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=TIMEOUT) as answer:
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))


def metrics(server: LocalServer) -> dict[str, float]:
    """river_trt's own metrics of river_llm, without the prefix."""
    url = f"{server.url.rpartition(':')[0]}:{server.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
        lines = answer.read().decode().splitlines()
    return {
        line.partition("{")[0].removeprefix("river_trt_"): float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("river_trt_") and 'model="river_llm"' in line
    }


def tensor(name: str, values: Any, kind: str, batched: bool = False) -> grpcclient.InferInput:
    array = np.array(values if isinstance(values, list) else [values])
    if kind == "BYTES":
        array = np.array([str(v).encode() for v in array], np.object_)
    else:
        array = array.astype({"BOOL": bool, "INT32": np.int32, "FP32": np.float32}[kind])
    array = array[None] if batched else array
    made = grpcclient.InferInput(name, list(array.shape), kind)
    made.set_data_from_numpy(array)
    return made


class GrpcStream:
    """One bidirectional stream, over which requests are multiplexed."""

    def __init__(self, server: LocalServer) -> None:
        self.client = grpcclient.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        self.answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.client.start_stream(lambda result, error: self.answers.put((result, error)))

    def send(self, inputs: list[grpcclient.InferInput], request_id: str, model: str) -> None:
        self.client.async_stream_infer(
            model, inputs, request_id=request_id, enable_empty_final_response=True
        )

    def collect(self, count: int) -> dict[str, list[Any]]:
        """Responses, or errors, of `count` requests by id, until each has its last."""
        found: dict[str, list[Any]] = {}
        while count:
            result, error = self.answers.get(timeout=TIMEOUT)
            if error is not None:
                found.setdefault("error", []).append(error)
                count -= 1
                continue
            response = result.get_response()
            if response.outputs:
                found.setdefault(response.id, []).append(result)
            count -= response.parameters["triton_final_response"].bool_param
        return found


@contextmanager
def grpc_stream(server: LocalServer) -> Iterator[GrpcStream]:
    opened = GrpcStream(server)
    try:
        yield opened
    finally:
        opened.client.stop_stream(cancel_requests=True)
        opened.client.close()


def text_of(results: list[Any]) -> str:
    return b"".join(r.as_numpy("text_output").reshape(-1)[0] for r in results).decode()
