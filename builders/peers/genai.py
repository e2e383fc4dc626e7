"""onnxruntime-genai: the same weights through its own model builder, with its defaults."""

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og  # type: ignore[import-not-found,import-untyped,unused-ignore]

from builders.peers.base import PeerRun, once
from builders.peers.weights import hf_directory
from river_trt.errors import RiverError

RECORD = "peer.json"  # what a peer was built from, and the builder's settings


class Genai:
    def __init__(self, model: str, work: Path, threads: int, precision: str) -> None:
        """precision: fp32 or int4."""
        directory = build_peer(model, precision, work)
        self.details: dict[str, Any] = json.loads((directory / RECORD).read_text())
        self.details["threads"] = threads
        config = og.Config(str(directory))
        session = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": session}}))
        self._model = og.Model(config)

    def decode(self, prompt: Sequence[int], new_tokens: int) -> PeerRun:
        params = og.GeneratorParams(self._model)
        params.set_search_options(do_sample=False, max_length=len(prompt) + new_tokens)
        generator = og.Generator(self._model, params)
        tokens, token_ids, times = list(prompt), [], [time.perf_counter()]
        # Not generate_next_token: it stops at the end token without an error, and min_length
        # would mask that token's logit, which changes the text.
        for _ in range(new_tokens):
            generator.append_tokens(tokens)
            tokens = [int(np.argmax(generator.get_logits()[0, -1]))]
            times.append(time.perf_counter())
            token_ids += tokens
        return PeerRun(token_ids, times[-1] - times[1], times[1] - times[0])


def build_peer(model: str, precision: str, work: Path) -> Path:
    """Build work/genai-<precision>, unless it is there; returns it.

    Raises RiverError when it holds a peer of other weights or of another onnxruntime-genai.
    """
    weights = hf_directory(model, work)
    identity = {"onnxruntime-genai": version("onnxruntime-genai")}
    for file in sorted([weights / "config.json", *weights.glob("*.safetensors")]):
        with file.open("rb") as stream:
            identity[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()

    def build(directory: Path) -> None:
        _run_builder(weights, precision, directory)
        record = identity | {"precision": precision, "matmul": _matmul_kinds(directory)}
        (directory / RECORD).write_text(json.dumps(record, indent=2) + "\n")

    peer = once(work / f"genai-{precision}", build)
    if not identity.items() <= json.loads((peer / RECORD).read_text()).items():
        raise RiverError(f"{peer} was built from other weights or versions: give another --work")
    return peer


def _run_builder(weights: Path, precision: str, directory: Path) -> None:
    # Without hf_token=false the builder asks for a Hugging Face token even for local files.
    options = f"-m peer -p {precision} -e cpu --extra_options hf_token=false".split()
    paths = ["-i", str(weights), "-o", str(directory), "-c", str(directory / "cache")]
    # As a script, so that its own package `builders` is found before ours.
    script = Path(og.__file__).parent / "models" / "builder.py"
    command = [sys.executable, str(script), *paths, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RiverError(f"onnxruntime-genai's builder failed:\n{done.stderr.strip()[-2000:]}")
    shutil.rmtree(directory / "cache", ignore_errors=True)


def _matmul_kinds(directory: Path) -> list[str]:
    """The kinds of MatMulNBits in the peer's graph; none in a float32 one."""
    import onnx

    graph = onnx.load(directory / "model.onnx", load_external_data=False).graph
    nodes = (n for n in graph.node if n.op_type == "MatMulNBits")
    kinds = {tuple(f"{a.name} {a.i}" for a in n.attribute if a.name not in "KN") for n in nodes}
    return sorted(", ".join(kind) for kind in kinds)
