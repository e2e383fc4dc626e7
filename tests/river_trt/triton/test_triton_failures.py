"""A real tritonserver: an engine that is broken, and a shutdown that leaves nothing behind."""

import shutil

import psutil

from river_trt.triton.repository import ExportOptions, export
from tests.river_trt.triton.clients import generate, stream

BODY = {"text_input": "hello", "max_tokens": 4}


def test_broken_engine_is_unavailable_with_its_reason(start_server, settings, tmp_path):
    export(ExportOptions(settings, tmp_path))
    broken = export(ExportOptions(settings, tmp_path, name="broken"))
    with (broken / "1" / "engine" / "model.data").open("r+b") as file:
        file.write(b"\xff" * 8)
    missing = export(ExportOptions(settings, tmp_path, name="missing"))
    shutil.rmtree(missing / "1" / "engine")
    with start_server(tmp_path) as server:
        index = {entry["name"]: entry for entry in server.index()}
        assert index["river_llm"]["state"] == "READY"
        for name, reason in (("broken", "model.data"), ("missing", "engine")):
            assert index[name]["state"] == "UNAVAILABLE"
            assert reason in index[name]["reason"], index[name]
            assert "Traceback" not in index[name]["reason"]
            assert generate(server, BODY, name)[0] != 200
        assert generate(server, BODY)[0] == 200


def test_shutdown_ends_requests_and_leaves_nothing(start_server, settings, tmp_path):
    export(ExportOptions(settings, tmp_path))
    with start_server(tmp_path) as server:
        assert server.shared_memory()
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        assert len(family) > 1  # the stub
        events = stream(server, BODY | {"max_tokens": 400})
        next(events)
        events.close()
        folder = server.folder
        assert list(folder.glob("python/triton_python_backend_stub"))
    assert not server.shared_memory()
    assert not [process for process in family if _runs(process)]
    assert not folder.exists()


def _runs(process: psutil.Process) -> bool:
    """A zombie has ended: it waits for the system's first process to take notice."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
