"""One execution context for steps of one shape, and the CUDA graphs captured from it."""

from collections.abc import Callable, Mapping
from typing import Any

from river_trt.backends.tensorrt.cuda import Cuda
from river_trt.backends.tensorrt.opening import Messages
from river_trt.backends.tensorrt.plan import StepShape
from river_trt.errors import EngineError


class Runner:
    """Runs steps over any range of cache rows.

    A CUDA graph holds addresses, among them those of scratch that the plugins own and give back
    when a context's shapes change. So each captured shape has a context of its own, and each range
    of cache rows a graph: it runs once as it is, the second time under capture, then replayed.
    """

    def __init__(
        self, cuda: Cuda, context: Any, stream: Any, messages: Messages, capturable: bool
    ) -> None:
        self._cuda, self._context, self._stream = cuda, context, stream
        self._messages = messages
        self._capturable = capturable
        self._graphs: dict[int, Any] = {}  # first cache row to its graph; None: has run once
        self.shape: StepShape | None = None

    def reshape(self, step: StepShape, inputs: Mapping[str, tuple[int, ...]]) -> None:
        """Set the inputs' shapes; a runner that captures keeps its first ones."""
        assert not any(self._graphs.values()), "a graph holds what its shapes had"
        for name, shape in inputs.items():
            self._require(self._context.set_input_shape(name, shape), f"the shape of {name}")
        self.shape = step

    def run(self, first_row: int, addresses: Callable[[int], Mapping[str, int]]) -> None:
        """Queue a step; `addresses` gives every tensor's place, always the same for a first_row."""
        graph = self._graphs.get(first_row)
        if graph is not None:
            self._cuda.launch(graph, self._stream)
            return
        for name, address in addresses(first_row).items():
            self._require(self._context.set_tensor_address(name, address), f"the place of {name}")
        if self._capturable and first_row in self._graphs:
            self._cuda.begin_capture(self._stream)
            try:
                self._enqueue()
            except EngineError:
                self._cuda.abandon_capture(self._stream)
                raise
            graph = self._graphs[first_row] = self._cuda.end_capture(self._stream)
            self._cuda.launch(graph, self._stream)
            return
        self._graphs[first_row] = None
        self._enqueue()

    def _enqueue(self) -> None:
        self._require(self._context.execute_async_v3(int(self._stream)), "the step")
        if len(self._messages):
            raise EngineError(f"TensorRT failed in the step: {self._messages.take()}")

    def _require(self, accepted: bool, what: str) -> None:
        if not accepted:
            raise EngineError(f"TensorRT refused {what}: {self._messages.take()}")
