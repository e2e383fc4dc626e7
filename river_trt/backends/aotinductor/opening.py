"""Opening a package of AOTInductor."""

from pathlib import Path

import torch

from river_trt.backends.aotinductor.checks import check_engine
from river_trt.backends.base import SessionOptions
from river_trt.backends.torch.gpu import current
from river_trt.backends.torch.graphs import Recorder
from river_trt.backends.torch.operators import load_operators
from river_trt.backends.torch.session import WEIGHTS_FILE, TorchSession
from river_trt.backends.torch.weights import read_weights
from river_trt.errors import EngineError
from river_trt.manifest import REBUILD, Manifest

MODEL_NAME = "model"  # in the package


def open_session(directory: Path, manifest: Manifest, options: SessionOptions) -> TorchSession:
    """Open the package and read its weights.

    Raises EngineError for another torch, a device that is absent or another one, or a package that
    torch cannot load; RiverError when the cache does not fit memory, or the operators are not
    there and cannot be compiled.
    """
    device = check_engine(manifest, options.gpu)
    load_operators(device.type, options.progress)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    package = directory / manifest.engine_file
    weights = read_weights(directory / WEIGHTS_FILE, device)
    try:
        loader = torch._C._aoti.AOTIModelPackageLoader(
            *(str(package), MODEL_NAME, True, 1),
            options.gpu if device.type == "cuda" else -1,
        )
        names = set(loader.get_constant_fqns())
        if names == weights.keys():
            # The package uses this memory as it is; the session keeps it alive.
            loader.load_constants(weights, False, True, True, False)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise EngineError(f"torch cannot load {package}: {reason}; {REBUILD}") from error
    if names != weights.keys():
        wrong = sorted(names ^ weights.keys())[0]
        where = "the package" if wrong in names else "the weights file"
        raise EngineError(f"only {where} has the tensor {wrong}; {REBUILD}")
    shape = manifest.model.shape
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    recorder = Recorder() if device.type == "cuda" else None
    with current(device):
        return TorchSession(loader.boxed_run, weights, shape, options, device, dtype, recorder)
