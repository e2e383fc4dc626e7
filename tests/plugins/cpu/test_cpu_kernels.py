"""The native CPU kernels under sanitizers, without ONNX Runtime and without Python."""

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from river_trt.compiled_library import FLAGS, X86_FILE_FLAGS
from tests.fuzz.budget import FACTOR, SEED, report

HERE = Path(__file__).parent
KERNELS = ["kernels.cc", *(f"kernels_{isa}.cc" for isa in ("portable", "avx2", "avx512", "amx"))]
PLUGINS = HERE.parents[2] / "plugins"
SOURCES = PLUGINS / "cpu"
X86 = platform.machine() == "x86_64"
EMULATED = {"emulated_amx.cc": X86_FILE_FLAGS["kernels_amx.cc"]}

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler: g++")


@pytest.fixture(scope="module")
def objects(tmp_path_factory) -> Path:
    """Where units lie compiled: two of them take minutes under sanitizers."""
    return tmp_path_factory.mktemp("objects")


def run_program(
    objects: Path, test: str, units: list[str], sanitizers: str, *arguments: str
) -> str:
    """Compile a test with the sources it needs, as the library is compiled, and run it."""
    options = [*FLAGS, "-std=c++20", "-O1", "-g1", "-Wall", "-Wextra", "-Werror"]
    options += [f"-I{SOURCES}", f"-I{PLUGINS / 'torch_cpu'}"]
    options += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    made = []
    folders = [HERE if unit in EMULATED else SOURCES for unit in units]
    for source in [HERE / test, *map(Path.joinpath, folders, units)]:
        made.append(objects / f"{source.name}.{sanitizers}.o")
        if made[-1].exists():
            continue
        extra = (X86_FILE_FLAGS | EMULATED).get(source.name, ()) if X86 else ()
        command = ["c++", *options, *extra, "-c", str(source), "-o", str(made[-1])]
        subprocess.run(command, check=True)
    program = objects / f"{test}.{sanitizers}"
    subprocess.run(["c++", *options, *map(str, made), "-o", str(program)], check=True)
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_kernels_equal_double_precision(objects):
    units = [*KERNELS, *(EMULATED if X86 else ())]
    output = run_program(objects, "test_kernels.cc", units, "address,undefined")
    assert "tested: portable" in output
    flags = Path("/proc/cpuinfo").read_text() if X86 else ""
    for name, flag in (("avx2", " avx2 "), ("avx512 vnni", " avx512_vnni ")):
        assert (f"tested: {name}\n" in output) == (flag in flags)
    tiles = " avx512_vnni " in flags and " amx_int8 " not in flags
    assert ("tested: tiles in software\n" in output) == tiles


@pytest.mark.skipif(not X86, reason="units of instruction sets are x86's")
@pytest.mark.parametrize("unit", X86_FILE_FLAGS)
def test_a_unit_of_an_instruction_set_shares_no_function(tmp_path, unit):
    """A weak one may stand for all units', on processors that lack the instructions."""
    compiled = tmp_path / "unit.o"
    flags = [*FLAGS, "-std=c++17", f"-I{SOURCES}", *X86_FILE_FLAGS[unit]]
    subprocess.run(["c++", *flags, "-c", str(SOURCES / unit), "-o", str(compiled)], check=True)
    listed = subprocess.run(["nm", "-C", str(compiled)], capture_output=True, text=True, check=True)
    assert not [line for line in listed.stdout.splitlines() if " W " in line]


@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_phases_run_in_order_and_are_shared_where_that_pays(objects, sanitizers):
    """With late and missing threads; the clock of what pays is the test's own."""
    run_program(objects, "test_parallel.cc", [], sanitizers)


def test_shares_run_once_whatever_threads_and_callers_there_are(objects):
    run_program(objects, "test_threads.cc", [], "thread")


def test_crafted_nodes_are_refused_or_run(objects):
    """Attributes, shapes, types and values of a hostile graph."""
    units = [*KERNELS, "block.cc", "head.cc", "one_linear.cc", "ort_operators.cc"]
    count = 5000 * FACTOR
    arguments = (str(SEED), str(count))
    output = run_program(objects, "fuzz_operators.cc", units, "address,undefined", *arguments)
    report("nodes under ASan and UBSan", count, output.splitlines()[-1])
    assert f"nodes: {count}, ran: " in output
