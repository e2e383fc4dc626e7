"""What nvcc makes of the kernels: 128-bit loads, tensor core steps, no spills, registers in bounds.

nvcc compiles with warnings as errors; NVIDIA's cuobjdump and nvdisasm (PyPI) read the result.
"""

import importlib.metadata
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from river_trt.plugin.toolkit import find_nvcc
from tests.plugins.kernel_programs import KERNELS, TESTS

ARCHITECTURES = ("sm_80", "sm_90")
SOURCES = (
    *("linear", "linear_prefill", "decode_half", "decode_bfloat16", "pack"),
    *("gate", "attention"),
)
FAR_APART = 200  # instructions
WARNINGS = ("-Xcompiler=-Wall,-Wextra,-Werror", "-Werror=all-warnings")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one kernel, all instances: how many there are, and what each must have."""

    instances: int
    max_registers: int  # what __launch_bounds__ allows, or a round number below it
    min_wide_loads: int  # 128-bit loads from global memory
    min_tensor_steps: int = 0
    max_stack_bytes: int = 0  # of spills, none of them in a loop of tensor steps


KERNEL_BOUNDS = {
    # 8 loads of weights a step, twice for the next step, and x; two blocks of 256 threads an SM.
    "linear_kernel": Bounds(8, 128, 16, 8),
    "prologue_kernel": Bounds(2, 64, 2),
    "dequantise_kernel": Bounds(2, 64, 1),
    "dequantise_packed_kernel": Bounds(2, 64, 1),
    "pack_kernel": Bounds(1, 128, 0),
    # x, the norm and pre_scale; a panel of the backbone alone has 8 steps. Weights come by copies.
    "decode_kernel": Bounds(32, 128, 3, 8, max_stack_bytes=64),
    "epilogue_kernel": Bounds(2, 64, 0),
    "gate_kernel": Bounds(2, 64, 4),
    "append_kernel": Bounds(2, 64, 1),
    # Keys and values of 16 slots twice: before the loop and in it; a step of both products.
    "attention_kernel": Bounds(14, 255, 32, 12),
}


# Of attention's loop, in instructions for the 16 keys that a warp takes at a time, by head_dim and
# tiles of 8 queries. Half of it is for new and for partly filled units, and is seldom run.
ATTENTION_LOOPS = {(64, 1): 380, (64, 2): 660, (128, 1): 560, (128, 2): 720, (256, 1): 940}


def tool(name: str) -> Path:
    """A program of NVIDIA's; skips the test where its PyPI package is not installed."""
    try:
        files = importlib.metadata.files(f"nvidia-cuda-{name}") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{name} is missing: pip install nvidia-cuda-{name}")
    for file in files:
        if file.name == name:
            return Path(file.locate())
    pytest.fail(f"the package nvidia-cuda-{name} holds no {name}")


@dataclass(frozen=True, slots=True)
class Kernel:
    """One instance in one cubin."""

    name: str  # without its template arguments
    mangled: str
    registers: int
    stack_bytes: int
    local_bytes: int
    sass: str


@pytest.fixture(scope="module")
def kernels(tmp_path_factory) -> dict[str, list[Kernel]]:
    """architecture -> every kernel of plugins/kernels."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc on this machine: there is no SASS to read")
    folder = tmp_path_factory.mktemp("sass")
    found: dict[str, list[Kernel]] = {arch: [] for arch in ARCHITECTURES}
    codes = [f"-gencode=arch=compute_{a[3:]},code={a}" for a in ARCHITECTURES]
    for source in SOURCES:
        binary = folder / f"{source}.o"
        command = [nvcc, "-std=c++17", *codes, *WARNINGS, "-c", KERNELS / f"{source}.cu"]
        done = subprocess.run([*command, "-o", binary], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        for arch in ARCHITECTURES:
            found[arch] += read_kernels(binary, arch)
    return found


def read_kernels(binary: Path, arch: str) -> list[Kernel]:
    dump = tool("cuobjdump")
    usage = run(dump, "-arch", arch, "-res-usage", binary)
    sass = run(dump, "-arch", arch, "-sass", binary)
    code = {part.split(None, 1)[0]: part for part in sass.split("Function : ")[1:]}
    pattern = r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)"
    return [
        Kernel(plain_name(name), name, int(reg), int(stack), int(local), code[name])
        for name, reg, stack, local in re.findall(pattern, usage)
    ]


def run(program: Path, *arguments: object) -> str:
    nvdisasm = tool("nvdisasm").parent
    done = subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": f"{nvdisasm}:/usr/bin:/bin"},
    )
    return done.stdout


def plain_name(mangled: str) -> str:
    """_ZN5river13linear_kernelI... -> linear_kernel"""
    match = re.match(r"_ZN5river(\d+)", mangled)
    assert match is not None, mangled
    return mangled[match.end() : match.end() + int(match[1])]


def tensor_loops(sass: str) -> list[str]:
    """The code from the first to the last step of each kind and bank."""
    lines = [line for line in sass.splitlines() if re.match(r"\s+/\*[0-9a-f]{4,}\*/", line)]
    found = []
    for kind in ("IMMA", "HMMA"):
        steps = [number for number, line in enumerate(lines) if f" {kind}." in line]
        runs: list[list[int]] = []  # steps that lie far apart belong to the banks' own loops
        for number in steps:
            if not runs or number - runs[-1][-1] > FAR_APART:
                runs.append([])
            runs[-1].append(number)
        found += ["\n".join(lines[run[0] : run[-1]]) for run in runs]
    return found


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_instance_of_the_tables_is_there(kernels, arch: str):
    names = [kernel.name for kernel in kernels[arch]]
    counts = {name: names.count(name) for name in set(names)}
    assert counts == {name: bounds.instances for name, bounds in KERNEL_BOUNDS.items()}


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNEL_BOUNDS)
def test_no_spills_and_registers_in_bounds(kernels, arch: str, name: str):
    for kernel in kernels[arch]:
        if kernel.name != name:
            continue
        bounds = KERNEL_BOUNDS[name]
        assert kernel.local_bytes == 0, kernel.mangled
        assert kernel.stack_bytes <= bounds.max_stack_bytes, kernel.mangled
        assert kernel.registers <= bounds.max_registers, kernel.mangled
        code = kernel.sass
        for part in tensor_loops(code) if bounds.max_stack_bytes else [code]:
            assert not re.search(r"\b(STL|LDL)\b", part), kernel.mangled


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNEL_BOUNDS)
def test_loads_are_128_bits_wide(kernels, arch: str, name: str):
    bounds = KERNEL_BOUNDS[name]
    for kernel in kernels[arch]:
        if kernel.name != name:
            continue
        wide = len(re.findall(r"\bLDG\.E\.(?:\w+\.)*128\b", kernel.sass))
        assert wide >= bounds.min_wide_loads, f"{kernel.mangled} has {wide}"
        steps = len(re.findall(r"\bHMMA\.16816\.F32", kernel.sass))
        assert steps >= bounds.min_tensor_steps, f"{kernel.mangled} has {steps}"


def test_weights_pass_the_first_cache_by(kernels):
    for kernel in kernels["sm_90"]:
        if kernel.name == "linear_kernel":
            assert re.search(r"LDG\.E\.(?:\w+\.)*NA\.(?:\w+\.)*128|LDG\.E\.NA\.", kernel.sass)


@pytest.mark.parametrize(
    ("rows", "ahead", "most"),
    [
        *((1, 1, 40), (1, 2, 40), (2, 1, 47), (2, 2, 35)),
        *((4, 1, 49), (4, 2, 48), (8, 1, 77), (8, 2, 76)),
    ],
)
def test_the_packed_banks_loop_is_short(kernels, rows: int, ahead: int, most: int):
    """Instructions for a chunk, 32 codes a lane, of 8-bit activations; ahead: panels of the ring.

    The dialect's layout takes 115 to 230 for one row.
    """
    instance = f"Li{rows}ELb1ELi{ahead}"
    found = [k for k in kernels["sm_90"] if k.name == "decode_kernel" and instance in k.mangled]
    assert len(found) == 2  # types
    for kernel in found:
        (loop,) = (part for part in tensor_loops(kernel.sass) if "IMMA" in part)
        chunks = loop.count(" IMMA.") / 2
        assert len(loop.splitlines()) / chunks <= most, kernel.mangled
        assert len(re.findall(r"LDGSTS\.E\.BYPASS\.LTC128B\.128", loop)) >= chunks - 1


def test_the_persistent_prototype_stays_within_its_budget(tmp_path):
    """Its loops are decode's: of one row, with rings of two panels."""
    if find_nvcc() is None:
        pytest.skip("no nvcc on this machine: there is no SASS to read")
    source, binary = TESTS / "gpu" / "persistent.cu", tmp_path / "persistent.o"
    include = ("-I", KERNELS, "-I", TESTS)
    command = [find_nvcc(), "-std=c++20", "-arch=sm_90", *WARNINGS, *include, "-c", source]
    done = subprocess.run([*command, "-o", binary], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    found = [k for k in read_kernels(binary, "sm_90") if k.name == "persistent_kernel"]
    assert len(found) == 4  # types, exact and int8
    for kernel in found:
        assert kernel.registers <= 128 and kernel.stack_bytes == 0, kernel.mangled
        assert "ATOMG" in kernel.sass and "STRONG.GPU" in kernel.sass, kernel.mangled
        loop = tensor_loops(kernel.sass)[0]
        chunks = loop.count(" IMMA.") / 2 or loop.count(" HMMA.") / 4
        most = 30 if "IMMA" in loop else 70
        assert len(loop.splitlines()) / chunks <= most, kernel.mangled


def test_programmatic_launch_on_sm_90_only(kernels):
    """ACQBULK waits for the kernel before, PREEXIT lets the next one start."""
    for arch, expected in (("sm_80", False), ("sm_90", True)):
        for kernel in kernels[arch]:
            waits = "ACQBULK" in kernel.sass
            assert (waits, "PREEXIT" in kernel.sass) == (expected, expected), kernel.mangled


def loop_length(sass: str) -> int:
    """Instructions of the loop around all tensor core steps."""
    lines = re.findall(r"^\s+/\*([0-9a-f]{4,5})\*/\s+(.*?);", sass, re.MULTILINE)
    code = [(int(address, 16), text) for address, text in lines]
    steps = [address for address, text in code if "HMMA" in text]
    for address, text in code:
        target = re.search(r"\bBRA\b.*?0x([0-9a-f]+)", text)
        if target and address > steps[-1] and int(target[1], 16) < steps[0]:
            return sum(int(target[1], 16) <= at <= address for at, _ in code)
    raise AssertionError("no loop around the tensor core steps")


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_attention_stays_within_its_budget(kernels, arch: str):
    for kernel in kernels[arch]:
        if kernel.name != "attention_kernel":
            continue
        shape = re.search(r"Li(\d+)ELi(\d+)ELi\d+E", kernel.mangled)
        assert shape is not None
        assert loop_length(kernel.sass) <= ATTENTION_LOOPS[int(shape[1]), int(shape[2])], (
            kernel.mangled
        )
