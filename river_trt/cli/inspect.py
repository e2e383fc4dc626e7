"""`river-trt inspect`: what is in an engine directory, without opening the engine."""

import argparse
import json
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from river_trt.backends.tensorrt.inspector import engine_layers
from river_trt.cli.arguments import add_engine_argument, engine_path
from river_trt.cli.command import Command
from river_trt.cli.console import format_bytes, format_layers, print_json, stdout_console
from river_trt.cli.inspect_offload import add_offload_arguments, print_offload
from river_trt.cli.policies_table import policies_table
from river_trt.cli.tables import facts_table, plain_table, print_table
from river_trt.engine_dir import read_engine_dir
from river_trt.errors import RiverError
from river_trt.gpu_memory import gigabytes, gpu_memory
from river_trt.layer_record import LayerRecord, read_record
from river_trt.manifest import Manifest, SamplingInfo, cache_slot_bytes
from river_trt.text.template import CHAT_TEMPLATE_FILE

EXAMPLES = """\
  river-trt inspect engine/
  river-trt inspect engine/ --layers                 tau and pins of every layer
  river-trt inspect engine/ --network                TensorRT's layers
  river-trt inspect engine/ --no-verify              do not read the files, only their sizes
  river-trt inspect engine/ --offload 16GB --card a100    backbone layers in host memory
  river-trt inspect engine/ --json | jq .bytes_per_token
"""
LEAST_WEIGHT_BYTES = 1024  # below are constants of the arithmetic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_engine_argument(parser)
    parser.add_argument("--layers", action="store_true", help="list tau and pins layer by layer")
    parser.add_argument(
        "--network",
        action="store_true",
        help="TensorRT: list the engine's layers, or without its GPU those it was built from",
    )
    parser.add_argument("--json", action="store_true", help="the manifest and sizes as JSON")
    add_offload_arguments(parser)


def execute(args: argparse.Namespace) -> int:
    path = engine_path(args)
    manifest = read_engine_dir(path, verify=not args.no_verify)
    if args.json:
        described = describe(path, manifest) | {"verified": not args.no_verify}
        record = read_record(path)
        if record is not None:
            described["network"] = json.loads(record.to_json())
        print_json(described)
        return 0
    if args.offload is not None:
        print_offload(args, manifest)
        return 0
    console = stdout_console()
    console.print(facts_table([*facts(manifest), *record_facts(read_record(path))]))
    if manifest.policies:
        print_table(console, policies_table(manifest))
        console.print(
            "KL, top-1 and layers: on held-out text; * is the default, others: --policy NAME"
        )
    if args.layers:
        _print_layers(manifest)
    if args.network:
        _print_network(path, manifest)
    table = plain_table()
    table.add_column("file")
    table.add_column("size", justify="right")
    table.add_column("sha256", justify="right")
    for name, info in manifest.files.items():
        table.add_row(name, format_bytes(info.size), f"{info.sha256[:12]}…")
    table.add_section()
    total = sum(info.size for info in manifest.files.values())
    table.add_row("total", format_bytes(total), "not verified" if args.no_verify else "verified")
    print_table(console, table)
    return 0


def describe(path: Path, manifest: Manifest) -> dict[str, Any]:
    """An engine as JSON: its manifest, and what follows from it."""
    full, least = bytes_per_token(manifest)
    return {
        "engine": str(path),
        "manifest": json.loads(manifest.to_json()),
        "size_bytes": sum(info.size for info in manifest.files.values()),
        "bytes_per_token": {"full_depth": full, "all_river": least},
    }


def facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What a user asks of an engine, as rows of a table."""
    model, shape, counts = manifest.model, manifest.model.shape, manifest.bytes_per_layer
    river, precision, backend = manifest.river, manifest.precision, manifest.backend
    chat = "with" if CHAT_TEMPLATE_FILE in manifest.files else "no"
    tokenizer = f"yes, {chat} chat template" if model.has_tokenizer else "none: takes token ids"
    zero_points = "symmetric" if river.symmetric else "asymmetric"
    target = f"target {backend.target}"
    if backend.compute_capability is not None:
        target += f", compute capability {backend.compute_capability}"
    full, least = bytes_per_token(manifest)
    return [
        ("model", f"{model.name} ({model.family}), {model.num_parameters / 1e6:,.1f} M parameters"),
        (
            "shape",
            f"{shape.num_layers} layers, hidden {shape.hidden_size}, {shape.num_heads} heads "
            f"({shape.num_kv_heads} KV) of {shape.head_dim}, vocabulary {shape.vocab_size}",
        ),
        ("tokenizer", tokenizer),
        ("ends at", f"token ids {', '.join(map(str, model.eos_token_ids)) or 'none'}"),
        ("sampling", describe_sampling(manifest.text.sampling)),
        ("backend", f"{backend.name} {backend.version}, {target}"),
        *([("kernels", backend.kernels)] if backend.kernels else []),
        *([("mode", backend.mode)] if backend.mode else []),
        ("backbone", f"{precision.backbone}, {format_bytes(counts.backbone_layer)} a layer"),
        (
            "river",
            f"{river.bits} bits, {format_bytes(counts.river_layer)} a layer; {river.quantiser}, "
            f"groups of {river.group_size}, {zero_points}, {precision.river_activation} inputs",
        ),
        ("LM head", f"{precision.lm_head_bits} bits, {format_bytes(counts.lm_head)}"),
        *_river_head(manifest),
        (
            "KV cache",
            f"{precision.kv_cache}, {format_bytes(cache_slot_bytes(manifest))} a token, "
            f"up to {shape.max_seq_len} tokens",
        ),
        *gpu_facts(manifest),
        ("gate", manifest.policy.gate),
        ("tau", summarise_tau(manifest.policy.tau)),
        ("pinned", format_layers(manifest.policy.pinned)),
        ("policy", manifest.policy.calibration or "not calibrated; see `river-trt calibrate`"),
        (
            "draft",
            f"pinned {format_layers(manifest.draft.pinned)}; "
            f"{manifest.draft.calibration or 'not calibrated; see `river-trt calibrate --draft`'}",
        ),
        (
            "reads",
            f"{format_bytes(full)} a token at full depth, {format_bytes(least)} all river "
            f"({full / least:.1f}x fewer)",
        ),
        ("built", f"{manifest.created} by river-trt {manifest.river_trt_version}"),
    ]


def gpu_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What an engine of torch takes on a GPU as `load` opens it, and what is free there."""
    if manifest.backend.name not in ("torch", "aotinductor") or manifest.backend.target == "cpu":
        return []
    rows, slots = 10, manifest.model.shape.default_cache_length  # 8 rows, one spare, one to fill
    needed = gpu_memory(manifest, "weights.safetensors", rows, slots)
    text = (
        f"{gigabytes(needed.total)} GB: {gigabytes(needed.weights)} weights, "
        f"{gigabytes(needed.cache)} cache of {rows} rows of {slots} slots, "
        f"{gigabytes(needed.work)} to work in"
    )
    free = free_gpu_memory()
    return [("GPU memory", text if free is None else f"{text}; {gigabytes(free)} GB are free")]


def free_gpu_memory() -> int | None:
    """Of the first GPU, in bytes, as NVIDIA's tool tells; None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)  # noqa: S603
    lines = done.stdout.split()
    return int(lines[0]) << 20 if lines and lines[0].isdigit() else None


def describe_sampling(sampling: SamplingInfo) -> str:
    """What the publisher says, and so what a caller gets who asks for nothing else."""
    said = {name: value for name, value in asdict(sampling).items() if value is not None}
    greedy = not said.pop("temperature", 0.0)
    if not greedy:
        said = {"temperature": sampling.temperature, **said}
    values = ", ".join(f"{name} {value:g}" for name, value in said.items())
    return f"greedy{', else ' if values else ''}{values}" if greedy else values


def record_facts(record: LayerRecord | None) -> list[tuple[str, str]]:
    """The network that TensorRT built from, as it was recorded then."""
    if record is None:
        return []
    plugins = ", ".join(f"{count} {name}" for name, count in record.plugins.items())
    weights = ", ".join(
        f"{kind} {format_bytes(size)}"
        for kind, size in sorted(record.weight_bytes.items(), key=lambda item: -item[1])
        if size >= LEAST_WEIGHT_BYTES
    )
    inside = sum(slot.in_conditional for slot in record.cache_slots)
    return [
        (
            "network",
            f"{len(record.layers)} layers of {record.library}: {record.gates} gates, "
            f"{record.linears} linears, {record.attentions} attentions, "
            f"{record.conditionals} conditionals",
        ),
        ("plugins", plugins or "none"),
        ("cache", f"{len(record.cache_slots)} tensors, {inside} updated inside a conditional"),
        ("weights", weights),
    ]


def _river_head(manifest: Manifest) -> list[tuple[str, str]]:
    bits, size = manifest.precision.river_head_bits, manifest.bytes_per_layer.river_head
    if size is None:
        return []
    return [("river head", f"rare tokens in {bits} bits, {format_bytes(size)} with the frequent")]


def bytes_per_token(manifest: Manifest) -> tuple[float, float]:
    """Weight bytes read for a token at full depth, and when it exits at once (tau = -inf)."""
    num_layers = manifest.model.shape.num_layers
    counts = manifest.bytes_per_layer
    # Layer 1 always runs the backbone: nothing can have exited before it.
    return counts.per_token(num_layers, num_layers), counts.per_token(1, num_layers)


def summarise_tau(tau: tuple[float, ...]) -> str:
    """Thresholds in one line: one value, or a range, and the layers without an exit."""
    values = sorted(set(tau))
    if values == [np.inf]:
        return "inf: never exits, the plain model"
    if len(values) == 1:
        return f"{values[0]:g} after every layer"
    never = [layer for layer, value in enumerate(tau, 1) if value == np.inf]
    open_values = [value for value in values if value != np.inf]
    text = f"{open_values[0]:g}"
    if len(open_values) > 1:
        text += f" to {open_values[-1]:g}, by layer"
    return f"{text}; no exit after {format_layers(never)}" if never else text


def _print_network(path: Path, manifest: Manifest) -> None:
    record = read_record(path)
    if record is None:
        raise RiverError(f"{path} is no engine of TensorRT, so --network has nothing to list")
    rows: list[tuple[str, ...]]
    try:
        rows = [(name, kind, "", "") for name, kind in engine_layers(path, manifest)]
        title = "layers of the engine"
    except RiverError as error:
        title = f"layers of the network when it was built ({error})"
        rows = [
            (
                layer.name,
                layer.type,
                layer.precision,
                format_bytes(layer.weight_bytes) if layer.weight_bytes else "",
            )
            for layer in record.layers
        ]
    table = plain_table(title)
    table.add_column("layer")
    for column in ("type", "precision", "weights"):
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    print_table(stdout_console(), table)


def _print_layers(manifest: Manifest) -> None:
    table = plain_table()
    table.add_column("layer", justify="right")
    table.add_column("tau", justify="right")
    table.add_column("bank")
    for layer, tau in enumerate(manifest.policy.tau, 1):
        bank = "backbone" if layer == 1 else "backbone, or river once exited"
        if layer in manifest.policy.pinned:
            bank = "backbone (pinned)"
        table.add_row(str(layer), f"{tau:g}", bank)
    print_table(stdout_console(), table)


COMMAND = Command("inspect", "Show what is in an engine.", EXAMPLES, add_arguments, execute)
