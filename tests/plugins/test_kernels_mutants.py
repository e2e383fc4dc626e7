"""Mutation tests: a kernel with a seeded mistake must not pass its CPU test."""

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.plugins.kernel_mutants import MUTANTS, Mutant
from tests.plugins.kernel_programs import KERNELS, PROGRAMS, Compiler, run_program

ORDERS = (0, 1, 7)


def survives(mutant: Mutant, folder: Path, ready: list[Path]) -> bool:
    """Whether the mutant passes its program's quick run in every thread order."""
    kernels = folder / "kernels"
    shutil.copytree(KERNELS, kernels)
    path = kernels / mutant.file
    text = path.read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1, f"{mutant.file} holds {mutant.old!r} not exactly once"
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    others = [done for done in ready if done.stem != Path(mutant.source).stem]
    program = Compiler(folder, kernels=kernels).program(mutant.program, others)
    try:
        return all(run_program(program, order, True, 120).returncode == 0 for order in ORDERS)
    except subprocess.TimeoutExpired:
        return False  # it never ends: nobody would take that for a pass


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, bool]:
    """name -> whether it survived. Two at a time; all but the mutated source is compiled once."""
    base = Compiler(tmp_path_factory.mktemp("unchanged"))
    ready = {}
    for name in {mutant.program for mutant in MUTANTS.values()}:
        done = run_program(base.program(name), 0, quick=True)
        assert done.returncode == 0, f"{name} fails without a mutant: {done.stdout[-2000:]}"
        stems = {f"test_{name}", "host_gemm", *(Path(s).stem for s in PROGRAMS[name])}
        ready[name] = [path for path in base.folder.glob("*.o") if path.stem in stems]
        if len(PROGRAMS[name]) < 2:
            ready[name] = [path for path in ready[name] if path.stem != "host_gemm"]

    def judge(item: tuple[int, Mutant]) -> bool:
        number, mutant = item
        folder = tmp_path_factory.mktemp(f"mutant{number}")
        return survives(mutant, folder, ready[mutant.program])

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(MUTANTS, pool.map(judge, enumerate(MUTANTS.values())), strict=True))


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(outcomes, name: str):
    assert not outcomes[name], f"the CPU tests pass with the mistake: {name}"
