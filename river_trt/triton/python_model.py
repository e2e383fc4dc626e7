"""The TritonPythonModel that an exported 1/model.py imports; runs inside Triton's Python stub."""

from importlib import import_module
from pathlib import Path
from typing import Any

from river_trt.errors import RiverError
from river_trt.triton.bridge import Bridge
from river_trt.triton.fields import find_layout
from river_trt.triton.settings import ModelSettings


class TritonPythonModel:
    """Loads the engine, hands requests to the bridge's thread."""

    def initialize(self, args: dict[str, str]) -> None:
        pb_utils: Any = import_module("triton_python_backend_utils")
        directory = Path(args["model_repository"]) / args["model_version"]
        try:
            settings = ModelSettings.read(directory)
            engine = settings.load_engine(directory)
        except RiverError as error:  # one sentence in the repository index, not a traceback
            raise pb_utils.TritonModelException(str(error)) from None
        self._bridge = Bridge(
            engine,
            find_layout(settings.layout),
            settings.max_queue,
            args["model_name"],
            pb_utils,
        )

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            self._bridge.put(request)

    def finalize(self) -> None:
        self._bridge.close()
