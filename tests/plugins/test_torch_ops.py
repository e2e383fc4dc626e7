"""The torch operators' host side: registration, and results over the kernels' CPU shim."""

import subprocess
import sys

from tests.plugins import native

CHECK = native.ROOT / "tests" / "gpu" / "check_operators.py"


def test_over_the_shim_they_give_what_the_dialect_gives():
    """The library replaces the CPU implementation of its process: a process of its own."""
    library = native.build("river_shim_torch") / "tests/torch/libriver_shim_torch.so"
    done = subprocess.run(
        [sys.executable, CHECK, library, "cpu"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 problems on cpu" in done.stdout


def test_the_library_registers_cuda_implementations_and_leaves_the_cpus_alone():
    library = native.build("river_trt_torch") / "libriver_trt_torch.so"
    code = f"""
import torch
from builders import dialect
names = ("linear", "gate", "attention")
def has_cuda(name):
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"river_trt::{{name}}", "CUDA")
assert not any(map(has_cuda, names))
torch.ops.load_library({str(library)!r})
assert all(map(has_cuda, names))
y = torch.ops.river_trt.gate(
    torch.ones(1, 1, 8), torch.ones(1, 1, 8), torch.zeros(8), torch.tensor(False),
    torch.zeros(1, 1, dtype=torch.bool), torch.full((1, 1), 5, dtype=torch.int32),
    torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), 2)
assert y[0].item() and y[1].item() == 2
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=native.ROOT, timeout=300
    )
    assert done.returncode == 0, done.stderr


def test_it_exports_nothing():
    library = native.build("river_trt_torch") / "libriver_trt_torch.so"
    done = subprocess.run(
        ["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
