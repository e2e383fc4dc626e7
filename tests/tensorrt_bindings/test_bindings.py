"""Our calls of TensorRT against its real Python bindings, four versions, without TensorRT itself.

The bindings need nine symbols of three libraries to be imported; stubs give them. Nothing is built
or run here: names, parameters, enums and what can be set are compared.
"""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.river_trt.backends.tensorrt import doubles
from tests.tensorrt_bindings.uses import ABSENT, ENUMS, LACKING, OVERRIDDEN, USES

ROOT = Path(__file__).parents[2]
BINDINGS = ROOT / ".venv" / "tensorrt-bindings"
HERE = Path(__file__).parent
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
SYMBOLS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL"),
    *("getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry"),
    "initLibNvInferPlugins",
)


@pytest.fixture(scope="module")
def stubs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stubs")
    source = folder / "stubs.c"
    source.write_text("".join(f"void* {name}(void) {{ return 0; }}\n" for name in SYMBOLS))
    for major in ("10", "11"):
        for library in LIBRARIES:
            name = f"lib{library}.so.{major}"
            command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", source, "-o", folder / name]
            subprocess.run(command, check=True)
    return folder


def inspect_version(version: str, stubs: Path) -> dict:
    folder = BINDINGS / version
    if not folder.is_dir():
        pytest.skip(f"no bindings of TensorRT {version}: scripts/setup_tensorrt_bindings.sh")
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(stubs),
        "PYTHONPATH": os.pathsep.join((str(folder), str(HERE))),
    }
    done = subprocess.run(
        [sys.executable, HERE / "inspect_bindings.py"],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("version", LACKING)
def test_what_we_call_is_what_the_bindings_have(version, stubs):
    found = inspect_version(version, stubs)
    assert found["version"] == version
    absent = {name for name, reason in found["problems"].items() if reason == "absent"}
    assert absent == ABSENT | LACKING[version]
    assert {name: r for name, r in found["problems"].items() if r != "absent"} == {}


def our_sources() -> list[Path]:
    """The files that are handed the module `trt` or an object of it."""
    folders = (ROOT / "builders", ROOT / "river_trt")
    files = [path for folder in folders for path in folder.rglob("*.py")]
    return [
        path for path in files if re.search(r"\btrt: Any|engine: Any|opened\.", path.read_text())
    ]


def test_every_method_that_we_call_is_in_the_table(stubs):
    """A call of a new method must be added to uses.py, so that it is compared too."""
    methods = set(inspect_version("10.16.1.11", stubs)["methods"])
    known = {member for members in USES.values() for member in members}
    known |= {member for members in (ENUMS | OVERRIDDEN).values() for member in members}
    known |= {"append", "pop", "read", "write", "seek", "allocate", "release"}  # other objects'
    known.add("get_plugin_registry")  # a function of the module, which the plugin tests call
    ours = our_sources()
    assert len(ours) >= 8
    for path in ours:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = node.func.attr
                assert name in known or name not in methods, (
                    f"{path.name} calls {name}: see uses.py"
                )


def test_a_call_that_the_bindings_do_not_take_is_noticed(stubs, tmp_path, monkeypatch):
    table = (HERE / "uses.py").read_text()
    spoilt = table.replace('"set_shape": (4, ())', '"set_shape": (5, ())')
    spoilt = spoilt.replace('"ignore_mismatch"', '"ignore"').replace('"USER_MANAGED"', '"USERS"')
    assert spoilt != table
    (tmp_path / "uses.py").write_text(spoilt)
    (tmp_path / "inspect_bindings.py").write_text((HERE / "inspect_bindings.py").read_text())
    monkeypatch.setattr(sys.modules[__name__], "HERE", tmp_path)
    wrong = inspect_version("10.16.1.11", stubs)["problems"].keys() - ABSENT
    assert wrong == {
        "IOptimizationProfile.set_shape",
        "IBuilderConfig.set_timing_cache",
        "ExecutionContextAllocationStrategy.USERS",
    }


def test_the_runtimes_doubles_have_the_bindings_names():
    """A double that has a method too many, or lacks one that we use, would hide a fault."""
    table = {"ICudaEngine": doubles.FakeEngine, "IExecutionContext": doubles.FakeContext}
    ours = {"compute", "cuda", "failure", "contexts", "tensors", "engine", "shapes", "addresses"}
    ours.add("has_host_code")
    for name, double in table.items():
        made = double.__new__(double)
        names = {n for n in dir(made) if not n.startswith("_")} | {"error_recorder"}
        missing = USES[name].keys() - names - {"weight_streaming_budget_v2"}
        assert missing == set(), f"the double of {name} lacks {missing}"
        extra = names - USES[name].keys() - ours - {"profile"}
        assert extra == set(), f"the double of {name} has {extra}, which we do not use"
