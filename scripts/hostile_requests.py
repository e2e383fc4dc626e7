"""Requests that want to hurt a server, over HTTP and gRPC: for the soak and for the tests."""

import gzip
import json
import random
import socket
import struct
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

MODEL = "river_llm"
GENERATE = f"/v2/models/{MODEL}/generate"
WILD_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        "",
        "many",
        [],
        {},
        [[]],
        [None],
        {"a": {"b": [1]}},
        "\ud800",
        "\x00",
        "x" * 5000,
    ),
    *(-1, 0, 1e400, -1e400, 10**30, -(10**30), 10**4000, 2**31, 2**63, 0.5, 1e-400, "NaN", "inf"),
)
PARAMETERS = (
    *("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed"),
    *("stop", "stop_token_ids", "ignore_eos", "mode", "max_draft_tokens", "tau", "pinned"),
    *("prefill", "n", "best_of", "presence_penalty", "gate_scope", "no_such_parameter"),
)
Body = Callable[[random.Random], bytes]
Sender = Callable[[random.Random], str]


def _body(**fields: Any) -> bytes:
    return json.dumps({"text_input": "w1"} | fields).encode()


def _with_json(text: str) -> bytes:
    return _body(sampling_parameters=text)


def _wild(choice: random.Random) -> bytes:
    """A few parameters of values that none of them takes, in JSON or beside the inputs."""
    given = {name: choice.choice(WILD_VALUES) for name in choice.sample(PARAMETERS, 2)}
    if choice.random() < 0.5:
        return _with_json(json.dumps(given))
    return _body(**given)


def _random_bytes(choice: random.Random) -> bytes:
    body = bytearray(_body(max_tokens=4, stop=["a", "b"], tau=[0.5]))
    for _ in range(choice.randint(1, 8)):
        body[choice.randrange(len(body))] = choice.randrange(256)
    return bytes(body[: choice.randrange(len(body))] if choice.random() < 0.3 else body)


def _conversation(choice: random.Random) -> bytes:
    """Wrong in itself, or for any chat template."""
    wild: Any = choice.choice(WILD_VALUES)
    message = {"role": choice.choice(("user", "\ud800", 7)), "content": wild}
    messages = choice.choice((wild, [], [wild], [message], [message] * 2000, {"role": "user"}))
    text = choice.choice((json.dumps(messages), "[" * 50_000, '[{"role": "user", "content": '))
    return _body(text_input="", messages=text, tools=choice.choice((None, "[{}]", "[[[")))


BODIES: dict[str, Body] = {
    "conversations": _conversation,
    "brackets in sampling_parameters": lambda c: _with_json("[" * c.choice((65, 1000, 100_000))),
    "objects in sampling_parameters": lambda c: _with_json('{"a":' * c.choice((70, 5000, 100_000))),
    "quotes in sampling_parameters": lambda c: _with_json('"' + '\\"' * 100_000),
    "a surrogate as a name": lambda c: _with_json('{"\\ud800": 1}'),
    "a surrogate in the prompt": lambda c: b'{"text_input": "\\ud800 \\udfff"}',
    "brackets for a prompt": lambda c: b'{"text_input":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "brackets beside a prompt": lambda c: _body(x=0)[:-2] + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "a prompt of megabytes": lambda c: _body(text_input="word " * c.choice((20_000, 2_000_000))),
    "a prompt without spaces": lambda c: _body(text_input="a" * c.choice((5_000, 3_000_000))),
    "a prompt of one byte tokens": lambda c: _body(text_input="\U0001f980" * 4_000),
    "a prompt of control characters": lambda c: _body(text_input="\x00\x1b[2J\r\n\u202e" * 20),
    "no prompt": lambda c: c.choice((_body(text_input=""), b"{}", b"[]", b"null", b"")),
    "a prompt that is none": lambda c: _body(
        text_input=c.choice((7, None, True, {"a": 1}, ["a", "b"]))
    ),
    "stop strings by the thousand": lambda c: _body(stop=[f"s{i}" for i in range(300_000)]),
    "long stop strings": lambda c: _with_json(json.dumps({"stop": ["x" * 60_000] * 4})),
    "stop tokens by the thousand": lambda c: _body(stop_token_ids=list(range(100_000))),
    "a tau for layers that are not there": lambda c: _body(
        tau=[0.5] * c.choice((2, 5000, 100_000))
    ),
    "pins of no layer": lambda c: _body(pinned=[c.choice((-1, 0, 99, 2**31 - 1))] * 3),
    "ten thousand names": lambda c: _body(**{f"name{i}": i for i in range(10_000)}),
    "endless text": lambda c: _body(max_tokens=2**31 - 1, temperature=1.5, seed=1),
    "wild values": _wild,
    "damaged JSON": _random_bytes,
    "random bytes": lambda c: c.randbytes(c.randint(1, 4000)),
}
PATHS = (
    "/v2/models/../../etc/passwd/generate",
    "/v2/models/%2e%2e%2f%2e%2e%2fetc/generate",
    "/v2/models/" + "m" * 5000 + "/generate",
    f"/v2/models/{MODEL}/versions/99999999999999999999/generate",
    f"/v2/models/{MODEL}/infer",
    "/v2/repository/index",
    f"/v2/repository/models/{MODEL}/unload",
    f"/v2/repository/models/{MODEL}/load",
    "/v2/systemsharedmemory/region/a/register",
    "/v2/trace/setting",
    "/v2/logging",
)


def hostile_requests(
    server: Any, seed: int, timeout: float = 60.0, largest: int | None = None
) -> Iterator[tuple[str, str]]:
    """Endless: sends one after another, of all kinds in turn; yields its kind and its ending.

    server: a LocalServer. largest: bytes of a body that a proxy in front would let through, None
    for no proxy; larger ones are not sent. The ending is a status, how the connection ended, or
    HANGING.
    """
    while True:
        for kind, send in hostile_kinds(server, timeout, largest).items():
            yield kind, send(random.Random(f"{seed} {kind}"))  # noqa: S311
        seed += 1


def hostile_kinds(
    server: Any, timeout: float = 60.0, largest: int | None = None
) -> dict[str, Sender]:
    """What sends one request of each kind and returns its ending."""

    def post(path: str, data: bytes, headers: dict[str, str] | None = None) -> str:
        if largest is not None and len(data) > largest:
            return "413 of the proxy"
        request = urllib.request.Request(server.url + path, data, headers or {})  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310
                answer.read()
                return str(answer.status)
        except urllib.error.HTTPError as error:
            error.read()
            return str(error.code)
        except TimeoutError:
            return "HANGING"
        except OSError as error:
            return f"closed: {type(error).__name__}"

    def raw(text: bytes) -> str:
        """What no client library would send; then the client goes away."""
        with socket.create_connection(("127.0.0.1", server.http_port), timeout=5) as connection:
            connection.sendall(text)
        return "left"

    def posting(body: Body) -> Callable[[random.Random], str]:
        def send(choice: random.Random) -> str:
            stream = "_stream" if choice.random() < 0.3 else ""
            return post(GENERATE + stream, body(choice))

        return send

    head = f"POST {GENERATE} HTTP/1.1\r\nHost: a\r\n".encode()
    return {name: posting(body) for name, body in BODIES.items()} | {
        "a path that is none": lambda c: post(c.choice(PATHS), b"{}"),
        "half a body": lambda c: raw(head + b'Content-Length: 5000\r\n\r\n{"text_'),
        "a length that is none": lambda c: raw(head + b"Content-Length: -1\r\n\r\n{}"),
        "a compressed body": lambda c: post(
            GENERATE,
            gzip.compress(_body(text_input=" " * 10_000_000)),
            {"Content-Encoding": "gzip"},
        ),
        "tensors that lie": lambda c: _grpc_lie(server, c),
    }


def _grpc_lie(server: Any, choice: random.Random) -> str:
    """A string tensor whose lengths do not fit its bytes, or whose shape or kind is another's."""
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    lies = (
        struct.pack("<I", 2**31 - 1) + b"w1",
        struct.pack("<I", 1) + b"w1",
        b"\x01",
        b"",
        struct.pack("<I", 4) + b"\xff\xfe\xfd\xfc",
    )
    request = service_pb2.ModelInferRequest(model_name=MODEL)
    tensor = request.inputs.add(name=choice.choice(("text_input", "text_input", "tau", "nobody")))
    tensor.datatype = choice.choice(("BYTES", "BYTES", "FP32", "INT8"))
    tensor.shape.extend(choice.choice(([1], [1], [0], [-1], [2**40], [1, 1, 1], [])))
    request.raw_input_contents.append(choice.choice(lies))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            # To its end: tritonserver 2.51 never lets go of a stream that is left in the middle,
            # and then waits for it when it is to stop.
            answers = list(stub.ModelStreamInfer(iter([request]), timeout=20))
        except grpc.RpcError as error:
            hangs = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            return "HANGING" if hangs else error.code().name
    return "refused" if any(answer.error_message for answer in answers) else "answered"
