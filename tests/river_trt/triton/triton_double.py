"""What the server gives a Python model, without the server: requests, senders, metrics."""

import queue
from types import SimpleNamespace
from typing import Any

import numpy as np


class Error(Exception):
    INTERNAL, UNAVAILABLE, INVALID_ARG, CANCELLED = "internal", "unavailable", "invalid", "gone"

    def __init__(self, message: str, kind: str) -> None:
        message.encode()  # as the binding does, which knows UTF-8 only
        super().__init__(message)
        self.message, self.kind = message, kind


class Response:
    def __init__(self, output_tensors: Any = (), error: Error | None = None) -> None:
        self.outputs = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}
        self.error = error


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class Metric:
    def increment(self, value: float) -> None: ...

    def set(self, value: float) -> None: ...


class Family:
    COUNTER, GAUGE = "counter", "gauge"

    def __init__(self, name: str, description: str, kind: str) -> None: ...

    def Metric(self, labels: dict[str, str]) -> Metric:
        return Metric()


PB_UTILS = SimpleNamespace(
    TritonError=Error,
    InferenceResponse=Response,
    Tensor=Tensor,
    MetricFamily=Family,
    TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
)


class Sender:
    """broken: raises what a test wants raised when the server is told something."""

    def __init__(self) -> None:
        self.responses: queue.SimpleQueue[tuple[Response, int]] = queue.SimpleQueue()
        self.broken: BaseException | None = None

    def send(self, response: Response, flags: int) -> None:
        if self.broken is not None and response.error is None:
            raise self.broken
        self.responses.put((response, flags))

    def is_cancelled(self) -> bool:
        return False


class Request:
    def __init__(self, parameters: str = "", **strings: str | bytes) -> None:
        self.sender, self._parameters = Sender(), parameters
        self._tensors = [
            Tensor(name, np.array([v.encode() if isinstance(v, str) else v], np.object_))
            for name, v in strings.items()
        ]

    def inputs(self) -> list[Tensor]:
        return self._tensors

    def parameters(self) -> str:
        return self._parameters

    def get_response_sender(self) -> Sender:
        return self.sender

    def answer(self) -> Response:
        """The last response; raises queue.Empty if none comes: the request hangs."""
        while True:
            response, flags = self.sender.responses.get(timeout=20)
            if flags:
                return response
