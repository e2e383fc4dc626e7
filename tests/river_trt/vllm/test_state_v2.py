"""What model runner V2 would give the model: each token's policy, in one memory for all steps."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.river_trt.vllm.environment import PYTHON, environment, needs_vllm

pytestmark = needs_vllm


@pytest.fixture(scope="module")
def found() -> dict:
    script = Path(__file__).with_name("state_v2.py")
    done = subprocess.run(
        [PYTHON, script], env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_token_behind_its_prompt_is_generated_and_padding_is_not(found):
    assert found["mixed"]["generated"] == [True, False, False, False, False, False, False]
    assert found["again"]["generated"] == [False, False, False, True, True]
    assert found["dummy"] == [False] * 4


def test_each_token_has_its_requests_policy(found):
    own, asked = ["0.5"] * 3, ["inf"] * 3
    assert found["mixed"]["tau"][:4] == [own, asked, asked, asked]
    assert found["mixed"]["pinned"][:2] == [[False, False, True], [True, False, False]]
    assert found["again"]["tau"] == [own] * 5


def test_every_step_reads_the_same_memory(found):
    """A recorded step (a CUDA graph) reads where it was recorded."""
    assert len({found["mixed memory"], found["again memory"], found["dummy memory"]}) == 1
