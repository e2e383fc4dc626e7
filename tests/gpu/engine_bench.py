"""Speed of an engine, as its users have it: built by the CLI, loaded, and generating text.

usage: engine_bench.py --out DIR [--model NAME] [--library FILE]. The weights are random and made on
the spot. Writes DIR/speed.json and speed.md; a second model's lines join the first one's. With a
library over the kernels' CPU shim a tiny model shows that all of this runs, and measures nothing.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.gpu.engine import run_cli, run_over_shim

INF = float("inf")


@dataclass(frozen=True)
class Model:
    """A Llama of these sizes; full_layers: of the real model, where fewer are made."""

    num_hidden_layers: int
    full_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool


MODELS = {
    "Llama-3.2-1B": Model(16, 16, 2048, 8192, 32, 8, 64, 128256, True),
    "Llama-3.1-8B": Model(8, 32, 4096, 14336, 32, 8, 128, 128256, False),
    "tiny": Model(3, 3, 64, 128, 2, 1, 32, 128, True),
}
GROUP_SIZE = {True: 128, False: 64}  # whether it is on a GPU
CONTEXT = {True: 512, False: 6}  # prompt tokens
NEW_TOKENS = {True: 129, False: 3}
BATCHES = {True: (1, 4, 8), False: (1, 2)}
DEPTH, REPLAYS = 4, 20
GREEDY = {"temperature": 0.0}
TUNED = "loaded and tuned"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="tokens a second of an engine")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", choices=MODELS, default="Llama-3.2-1B")
    parser.add_argument("--only-build", action="store_true", help="measured by another run")
    parser.add_argument("--library", type=Path, help="over the CPU shim; default: on the GPU")
    args = parser.parse_args(argv)
    name = args.model if args.library is None else "tiny"
    folder = args.out / "build" / f"speed-{name}"
    on_gpu = args.library is None
    if not (folder / "engine").exists():
        make_engine(folder, MODELS[name], on_gpu)
    if args.only_build:
        return 0
    seconds = json.loads((folder / "seconds.json").read_text())
    if not on_gpu:
        run_over_shim(args.library)
    os.environ["RIVER_TRT_TUNE"] = "0"
    records, facts = measure(folder / "engine", name, on_gpu, tuned=False)
    write(args.out, records, {name: facts | seconds})
    if on_gpu:
        os.environ["RIVER_TRT_TUNE"] = "1"  # the load measures what the cache lacks
        records, tuned_facts = measure(folder / "engine", name, on_gpu=True, tuned=True)
        facts[TUNED] = tuned_facts["loaded"]
        write(args.out, records, {name: facts | seconds})
    shutil.rmtree(folder)
    print((args.out / "speed.md").read_text())
    if facts.get("taken_gb", 0) > facts.get("estimated_gb", 0):
        print("problem: the engine takes more of the GPU's memory than was said before loading")
        return 1
    return 0


def make_engine(folder: Path, model: Model, on_gpu: bool) -> None:
    """FOLDER/engine and what it took; the checkpoint is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    save_random_model(folder / "model", model, on_gpu)
    made = time.perf_counter()
    build_engine(folder, on_gpu)
    seconds = {"weights made": made - started, "built": time.perf_counter() - made}
    (folder / "seconds.json").write_text(json.dumps(seconds))
    shutil.rmtree(folder / "model")


def save_random_model(directory: Path, model: Model, on_gpu: bool) -> None:
    """A Hugging Face directory: weights of N(0, 1 / inputs), which the layers keep in range."""
    from safetensors.torch import save_file

    directory.mkdir(exist_ok=True)
    config = {key: value for key, value in vars(model).items() if key != "full_layers"} | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "torch_dtype": "bfloat16",
    }
    (directory / "config.json").write_text(json.dumps(config))
    device = "cuda" if on_gpu else "cpu"
    generator = torch.Generator(device).manual_seed(0)

    def normal(n: int, k: int) -> torch.Tensor:
        values = torch.empty(n, k, dtype=torch.bfloat16, device=device)
        return values.normal_(0.0, k**-0.5, generator=generator).cpu()

    hidden, inner = model.hidden_size, model.intermediate_size
    q, kv = (
        heads * model.head_dim for heads in (model.num_attention_heads, model.num_key_value_heads)
    )
    ones = torch.ones(hidden, dtype=torch.bfloat16)
    tensors = {
        "model.embed_tokens.weight": normal(model.vocab_size, hidden),
        "model.norm.weight": ones,
    }
    if not model.tie_word_embeddings:
        tensors["lm_head.weight"] = normal(model.vocab_size, hidden)
    linears = {
        "self_attn.q_proj": (q, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, q),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    for layer in range(model.num_hidden_layers):
        path = f"model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{path}.{name}.weight"] = ones.clone()
        for name, (n, k) in linears.items():
            tensors[f"{path}.{name}.weight"] = normal(n, k)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def build_engine(folder: Path, on_gpu: bool) -> None:
    from river_trt.cli.main import main as cli

    build = ["build", "--model", folder / "model", "--out", folder / "engine", "--target", "cuda"]
    build += ["--quantiser", "rtn", "--group-size", GROUP_SIZE[on_gpu], "--force", "--json"]
    run_cli(cli, build)


def measure(
    engine_dir: Path, name: str, on_gpu: bool, tuned: bool
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A record for each depth and batch; what the engine takes of the GPU beside its estimate."""
    import river_trt
    from river_trt.backends.torch.session import WEIGHTS_FILE
    from river_trt.cache_rows import cache_rows
    from river_trt.engine_dir import read_engine_dir
    from river_trt.gpu_memory import gpu_memory

    free_before = torch.cuda.mem_get_info()[0] if on_gpu else 0
    started = time.perf_counter()
    batches, context, new_tokens = BATCHES[on_gpu], CONTEXT[on_gpu], NEW_TOKENS[on_gpu]
    slots = context + new_tokens
    engine = river_trt.load(engine_dir, max_batch_size=max(batches), max_seq_len=slots)
    facts: dict[str, Any] = {"loaded": time.perf_counter() - started}
    layers = engine.num_layers
    depth = min(DEPTH, layers)
    full = [INF] * layers
    arms: dict[str, dict[str, Any]] = {
        "full depth": {"tau": full},
        f"depth {depth}": {"tau": full[: depth - 1] + [-INF] * (layers - depth + 1)},
        "all river but layer 1": {"tau": [-INF] * layers},
        "full depth, top_p 0.9": {"tau": full, "temperature": 1.0, "top_p": 0.9},
    }
    prompts = np.random.default_rng(0).integers(3, 100, (max(batches), context)).tolist()
    records = []
    for batch in batches:
        for arm, way in arms.items():
            config = river_trt.GenerationConfig(
                max_new_tokens=new_tokens, ignore_eos=True, pinned=(), **GREEDY | way
            )
            warm = dataclasses.replace(config, max_new_tokens=2)
            engine.generate(prompts[:batch], warm)  # records what it needs
            results = engine.generate(prompts[:batch], config)
            decode = max(result.decode_seconds for result in results)
            records.append(
                {
                    "model": name,
                    "layers": layers,
                    "full_layers": MODELS[name].full_layers,
                    "batch": batch,
                    "arm": arm,
                    "tuned": tuned,
                    "backbone_layers": float(
                        np.mean([result.backbone_layers[1:] for result in results])
                    ),
                    "prefill_ms": 1000 * float(np.mean([r.prefill_seconds for r in results])),
                    "step_ms": 1000 * decode / (new_tokens - 1),
                    "tokens_per_s": batch * (new_tokens - 1) / decode,
                    "replay_ms": replay_ms(engine, on_gpu),
                }
            )
            print(records[-1], flush=True)
    facts |= {"device": torch.cuda.get_device_name() if on_gpu else "cpu"}
    facts |= {"torch": torch.__version__, "context": context, "new_tokens": new_tokens}
    if on_gpu:
        rows = cache_rows(max(batches), False) + 1  # one that only fills up
        needed = gpu_memory(read_engine_dir(engine_dir, verify=False), WEIGHTS_FILE, rows, slots)
        facts["estimated_gb"] = needed.total / 1e9
        facts["taken_gb"] = (free_before - torch.cuda.mem_get_info()[0]) / 1e9
    return records, facts


def write(out: Path, records: list[dict[str, Any]], models: dict[str, Any]) -> None:
    """Add them to the report, whatever was measured before."""
    file = out / "speed.json"
    report = json.loads(file.read_text()) if file.exists() else {"records": [], "models": {}}
    report["records"] += records
    report["models"] |= models
    file.write_text(json.dumps(report, indent=1) + "\n")
    (out / "speed.md").write_text(table(report))


def replay_ms(engine: Any, on_gpu: bool) -> float:
    """Of the last step's recording alone: what a step takes beyond it is the host's."""
    (*_, runner) = engine.stepper.session._runners.values()
    replay = runner._recording.replay
    if not on_gpu:
        started = time.perf_counter()
        replay()
        return 1000 * (time.perf_counter() - started)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(REPLAYS):
        replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / REPLAYS


def table(report: dict[str, Any]) -> str:
    lines = []
    for name, facts in report["models"].items():
        tuned = f" ({facts[TUNED]:.1f} where it tunes)" if TUNED in facts else ""
        lines.append(
            f"{name}, {facts['device']}, torch {facts['torch']}: made in "
            f"{facts['weights made']:.0f} s, built in {facts['built']:.0f} s, loaded in "
            f"{facts['loaded']:.1f} s{tuned}; {facts['context']} prompt tokens, "
            f"{facts['new_tokens']} new ones, greedy; "
            + (
                f"GPU memory {facts['taken_gb']:.1f} GB, {facts['estimated_gb']:.1f} said before "
                "loading."
                if "taken_gb" in facts
                else "no GPU."
            )
        )
        lines.append("")
    lines += [
        "| model | batch | what runs | backbone layers | ms a step | of it the recording "
        "| tokens/s | x full depth | prefill ms a row |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    full = {
        (record["model"], record["batch"], record["tuned"]): record["step_ms"]
        for record in report["records"]
        if record["arm"] == "full depth"
    }
    for record in report["records"]:
        model = record["model"]
        if record["layers"] != record["full_layers"]:
            model += f", {record['layers']} of {record['full_layers']} layers"
        arm = record["arm"] + (", tuned" if record["tuned"] else "")
        ratio = full[record["model"], record["batch"], record["tuned"]] / record["step_ms"]
        lines.append(
            f"| {model} | {record['batch']} | {arm} | {record['backbone_layers']:.1f} | "
            f"{record['step_ms']:.3f} | {record['replay_ms']:.3f} | "
            f"{record['tokens_per_s']:.0f} | {ratio:.2f} | {record['prefill_ms']:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
