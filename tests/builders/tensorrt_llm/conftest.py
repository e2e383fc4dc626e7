"""The double stands on TensorRT-RTX, whose wheel is for x86-64 Linux only."""

from importlib.util import find_spec

WITHOUT_IT = {"test_sharding.py"}


def pytest_ignore_collect(collection_path):
    is_test = collection_path.name.startswith("test_")
    needs = is_test and collection_path.name not in WITHOUT_IT
    return True if needs and find_spec("tensorrt_rtx") is None else None
