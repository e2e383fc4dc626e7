"""The kernels on the CPU shim, under ASan and UBSan, in several thread orders."""

import functools
import re
from pathlib import Path

import pytest

from tests.plugins.kernel_programs import PROGRAMS, SANITIZED, Compiler, run_program

ORDERS = {"rising": 0, "falling": 1, "shuffled": 7}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """name -> the sanitized program, compiled once."""
    compiler = Compiler(tmp_path_factory.mktemp("sanitized"), SANITIZED)
    return functools.cache(compiler.program)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_program_agrees_with_double_precision(program, name: str, order: str):
    """The whole grid of shapes once; the other orders look for missing barriers on a small one."""
    done = run_program(program(name), ORDERS[order], quick=order != "rising")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    tally = re.search(rf"^{name}: (\d+) checks, 0 failed$", done.stdout, re.MULTILINE)
    assert tally is not None and int(tally[1]) > 50


def test_sanitizers_are_on(program):
    """ASan announces that it runs under swapcontext; without it the tests above say less."""
    done = run_program(program("shim"), 0, quick=True)
    assert "swapcontext" in done.stderr
    assert Path(program("shim")).read_bytes().count(b"__ubsan_handle") > 0
