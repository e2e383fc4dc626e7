"""The plugin library without TensorRT and without a GPU: the cases of plugins/tests/tensorrt.

`build` runs them on the library as it ships; `shim` on the same sources over the kernels' CPU shim,
under AddressSanitizer and UndefinedBehaviorSanitizer, where the plugins' launches really compute.
"""

import re
import subprocess

import pytest

from tests.plugins import native

# Of the C++ sources, so that pytest lists every case without building anything.
SOURCES = native.ROOT / "plugins" / "tests" / "tensorrt"


def cases(*files: str) -> list[str]:
    text = "".join((SOURCES / file).read_text() for file in files)
    return re.findall(r"^RIVER_CASE\((\w+)\)", text, re.MULTILINE)


BUILD_PHASE = cases("test_creation.cpp", "test_build_phase.cpp")
ENQUEUE = cases("test_enqueue.cpp")


def run_case(program, library, case):
    done = subprocess.run([program, library, case], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_program_has_the_cases_of_the_sources():
    folder = native.build("river_host_test", "river_trt_plugin")
    command = [folder / "tests/tensorrt/river_host_test", folder / "libriver_trt_plugin.so"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == sorted(BUILD_PHASE)


@pytest.mark.parametrize("case", BUILD_PHASE)
def test_library(case):
    folder = native.build("river_host_test", "river_trt_plugin")
    run_case(folder / "tests/tensorrt/river_host_test", folder / "libriver_trt_plugin.so", case)


@pytest.mark.parametrize("case", BUILD_PHASE + ENQUEUE)
def test_shim_under_sanitizers(case):
    folder = native.build("river_shim_test", "river_shim_plugin")
    here = folder / "tests/tensorrt"
    run_case(here / "river_shim_test", here / "libriver_shim_plugin.so", case)


def test_exports_are_the_entry_points_alone():
    """A symbol more could be another library's of the same name; libnvinfer is not needed."""
    library = native.build("river_trt_plugin") / "libriver_trt_plugin.so"
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    )
    assert sorted(line.split()[-1] for line in symbols.stdout.splitlines()) == [
        "getCreators",
        "setLoggerFinder",
    ]
    needed = subprocess.run(
        ["readelf", "-d", library], capture_output=True, text=True, check=True
    ).stdout
    names = set(re.findall(r"NEEDED.*\[(.*)\]", needed))
    system = {"libstdc++.so.6", "libm.so.6", "libgcc_s.so.1", "libc.so.6", "ld-linux-x86-64.so.2"}
    assert names <= system | {"libdl.so.2", "librt.so.1", "libpthread.so.0"}
