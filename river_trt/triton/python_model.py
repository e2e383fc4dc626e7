"""The TritonPythonModel that an exported 1/model.py imports; runs inside Triton's Python stub."""

import json
import logging
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from river_trt.errors import RiverError
from river_trt.triton.bridge import Bridge
from river_trt.triton.fields import find_layout
from river_trt.triton.settings import ModelSettings

# Seconds that a thread keeps Python's lock when others want it. The step wants it after every call
# into a library, and the thread that unpacks a long request would make it wait this long each time.
SWITCH_INTERVAL = 0.0005
FAILURE = "river_trt_failure"  # a parameter of the model's config: why it must not load

_log = logging.getLogger("river_trt")


class TritonPythonModel:
    """Loads the engine, hands requests to the bridge's thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Triton's entry: load the engine. Raises TritonModelException with one sentence."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._pb: Any = import_module("triton_python_backend_utils")
        self._name, self._config = args["model_name"], json.loads(args["model_config"])
        failure = self._config.get("parameters", {}).get(FAILURE)
        if failure is not None:
            raise self._pb.TritonModelException(failure["string_value"])
        directory = Path(args["model_repository"]) / args["model_version"]
        try:
            settings = ModelSettings.read(directory)
            on_gpu = args["model_instance_kind"] == "GPU"
            device = f"cuda:{args['model_instance_device_id']}" if on_gpu else None
            engine = settings.load_engine(directory, device)
        except RiverError as error:  # one sentence in the repository index, not a traceback
            raise self._pb.TritonModelException(str(error)) from None
        self._bridge = Bridge(
            engine,
            find_layout(settings.layout),
            settings.max_queue,
            args["model_name"],
            self._pb,
            self._turn_unready,
        )

    def execute(self, requests: list[Any]) -> None:
        """Triton's entry: take requests; each is answered later, from the bridge's thread."""
        for request in requests:
            self._bridge.put(request)

    def finalize(self) -> None:
        """Triton's entry: end all requests and the bridge."""
        self._bridge.close()
        if self._bridge.failure is not None:
            self._leave_the_reason(self._bridge.failure)

    def _turn_unready(self, reason: str) -> None:
        """On the bridge's dying thread: the server's readiness must tell that we cannot answer.

        A model can be unloaded from here if the server has --model-control-mode=explicit, which
        `river-trt triton serve` and the Dockerfile give. Elsewhere every request hears the reason.
        """
        try:
            self._pb.unload_model(self._name)
        except Exception as error:  # the stub raises its own
            _log.critical("%s; the server's mode keeps the model ready: %s", reason, error)

    def _leave_the_reason(self, reason: str) -> None:
        """The index keeps why a model last failed to load: so load it once more, to fail."""
        config = self._config | {"parameters": {FAILURE: {"string_value": reason}}}
        try:
            self._pb.load_model(self._name, config=json.dumps(config))
        except Exception as error:  # as it must
            _log.critical("%s", error)
