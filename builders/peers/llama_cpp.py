"""llama.cpp through llama-cpp-python, its weights converted by llama.cpp itself."""

import ctypes
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp  # type: ignore[import-not-found,import-untyped,unused-ignore]
import numpy as np

from builders.peers.base import PeerRun
from builders.peers.weights import gguf_file
from river_trt.errors import RiverError

CONTEXT = 4096


class LlamaCpp:
    def __init__(self, model: str, work: Path, threads: int, kind: str) -> None:
        """kind: f16, q8_0 or q4_0; embedding and head too."""
        source = gguf_file(model)
        target = work / f"{source.stem}.{kind}.gguf"
        if not target.exists():
            _convert(source, target, kind, threads)
        self._llama = llama_cpp.Llama(
            str(target),
            n_ctx=CONTEXT,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )
        self._vocab = self._llama.n_vocab()
        self.details: dict[str, Any] = {
            "llama-cpp-python": llama_cpp.__version__,
            "system": llama_cpp.llama_print_system_info().decode(),
            "file_bytes": target.stat().st_size,
            "threads": threads,
        }

    def decode(self, prompt: Sequence[int], new_tokens: int) -> PeerRun:
        self._llama.reset()
        self._llama._ctx.kv_cache_clear()
        tokens, token_ids, times = list(prompt), [], [time.perf_counter()]
        for _ in range(new_tokens):
            self._llama.eval(tokens)
            logits = llama_cpp.llama_get_logits_ith(self._llama.ctx, -1)
            tokens = [int(np.ctypeslib.as_array(logits, shape=(self._vocab,)).argmax())]
            times.append(time.perf_counter())
            token_ids += tokens
        return PeerRun(token_ids, times[-1] - times[1], times[1] - times[0])


def _convert(source: Path, target: Path, kind: str, threads: int) -> None:
    """llama.cpp's own quantiser; every matrix gets the kind, none a wider one."""
    types = {
        "f16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16,
        "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
        "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
    }
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.nthread = types[kind], threads
    settings.allow_requantize = True  # the demo's weights are 4-bit numbers already
    partial = target.with_name(target.name + ".partial")
    status = llama_cpp.llama_model_quantize(
        str(source).encode(), str(partial).encode(), ctypes.byref(settings)
    )
    if status:
        raise RiverError(f"llama.cpp cannot convert {source} to {kind} (status {status})")
    partial.rename(target)
