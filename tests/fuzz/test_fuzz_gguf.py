"""GGUF files that anyone can have written: a checkpoint, or a sentence."""

import struct
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from builders.checkpoints.gguf_file import GgufFile
from river_trt import RiverError
from tests.builders.checkpoints.test_gguf_file import write_gguf
from tests.fuzz.budget import fuzzing, report
from tests.fuzz.test_fuzz_files import one_line

HEADER = 4096  # bytes where most of what means something lies
WILD = (0, 1, 7, 8, 9, 12, 255, 2**16, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)
EDITS = st.lists(
    st.tuples(
        st.integers(0, HEADER) | st.integers(0, 10**6),
        st.binary(min_size=1, max_size=8)
        | st.sampled_from([struct.pack("<Q", number) for number in WILD])
        | st.sampled_from([struct.pack("<I", number) for number in WILD if number < 2**32]),
    ),
    min_size=1,
    max_size=4,
)


def check_file(path) -> str:
    try:
        checkpoint = GgufFile(path)
        for name in sorted(checkpoint.tensor_names)[:4]:
            checkpoint.tensor(name)
        checkpoint.text_info()
    except RiverError as error:
        return one_line(error)
    return "read"


def test_gguf_files(tmp_path):
    whole = tmp_path / "whole.gguf"
    write_gguf(whole)
    content = np.frombuffer(whole.read_bytes(), np.uint8)
    path, outcomes = tmp_path / "damaged.gguf", Counter()

    @fuzzing(250)
    @given(EDITS, st.none() | st.integers(0, content.size))
    def fuzz(edits, length):
        data = bytearray(content.tobytes())
        for at, new in edits:
            place = at % content.size
            data[place : place + len(new)] = new
        path.write_bytes(data[:length])
        outcomes[check_file(path)] += 1

    fuzz()
    report("GGUF files", outcomes.total(), f"{dict(outcomes)}")
    assert set(outcomes) == {"refused", "read"}
