"""What `river-trt bench` takes, and what is wrong with it before an engine is loaded."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from river_trt.benchmark.arms import MODES
from river_trt.benchmark.measure import Plan
from river_trt.benchmark.peers import EXTRAS
from river_trt.benchmark.prompts import BUILT_IN
from river_trt.cli.arguments import add_chat_arguments, check_prompt, parse_lengths, parse_tau
from river_trt.errors import RiverError

EXAMPLES = """\
  river-trt bench engine/                          full depth, the engine's policy, all river
  river-trt bench engine/ --tau 0.95 --tau 0.97    two more policies beside them
  river-trt bench engine/ --depth 4 --depth 8      every token leaves after layer 4, or 8
  river-trt bench engine/ --batch 1,4,8 --context 64,1024
  river-trt bench engine/ engine-int8/ --quality wiki.txt --plot bench.html
  river-trt bench engine/ --peer all --model demo  other runtimes on the same weights

Greedy, end-of-sequence tokens ignored, warm-up excluded; decode steps only, prefill apart.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "engines", nargs="*", type=Path, metavar="ENGINE", help="engine directories; the first "
        "one's full depth is the baseline of all ratios"
    )  # fmt: skip
    parser.add_argument(
        "--engine", action="append", default=[], type=Path, metavar="DIR", help="the same"
    )
    parser.add_argument(
        "--no-verify", action="store_true", help="do not compare the files with their SHA-256"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: the backend's choice)"
    )
    parser.add_argument(
        "--max-seq-len",
        type=int,
        metavar="N",
        help="cache slots, prompt and new tokens together (default: the model's limit, to 4096)",
    )

    _add_modes(parser.add_argument_group("what is measured"))
    _add_load(parser.add_argument_group("the load"))
    _add_output(parser.add_argument_group("quality and output"))


def _add_modes(modes: argparse._ArgumentGroup) -> None:
    modes.add_argument(
        "--mode",
        action="append",
        choices=tuple(MODES),
        help="full: full depth; policy: the engine's policy; river: all river; together: the "
        "policy with the rows of a batch leaving together; lossless: full depth's text, drafted "
        "by the river; may be given several times (default: the first three)",
    )
    modes.add_argument(
        "--tau",
        type=parse_tau,
        action="append",
        default=[],
        metavar="X",
        help="measure this threshold too; may be given several times",
    )
    modes.add_argument(
        "--policy",
        action="append",
        default=[],
        metavar="NAME",
        help="measure this policy of the engine too, as `inspect` lists them; may be given several "
        "times",
    )
    modes.add_argument(
        "--depth",
        type=int,
        action="append",
        default=[],
        metavar="L",
        help="every token leaves after this layer; may be given several times",
    )
    modes.add_argument(
        "--peer",
        action="append",
        default=[],
        choices=(*EXTRAS, "all"),
        metavar="NAME",
        help=f"another runtime, batch 1: {', '.join(EXTRAS)}, or all that are installed",
    )
    modes.add_argument(
        "--model", metavar="MODEL", help="the weights that peers are built from, as for `build`"
    )
    modes.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="keeps what peers build (default: peers/ in the user's cache)",
    )


def _add_load(load_group: argparse._ArgumentGroup) -> None:
    defaults = Plan()
    load_group.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="in place of the built-in prompts; may be given several times",
    )
    add_chat_arguments(load_group)
    load_group.add_argument(
        "--context",
        type=parse_lengths,
        metavar="N,..",
        help="cut or repeat the prompts to these lengths in tokens, a table each; with --quality "
        "they are pieces of that text",
    )
    load_group.add_argument(
        "--batch",
        type=parse_lengths,
        default=(defaults.batch,),
        metavar="N,..",
        help="prompts decoded together, a table each (default: 1)",
    )
    for name, help_text in (
        ("new-tokens", "tokens decoded for each prompt"),
        ("rounds", "measurements of each mode, alternating"),
    ):
        default = getattr(defaults, name.replace("-", "_"))
        help_text += " (default: %(default)s)"
        load_group.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help_text)


def _add_output(quality: argparse._ArgumentGroup) -> None:
    quality.add_argument(
        "--quality",
        type=Path,
        metavar="FILE",
        help="score every mode on this text too: KL and top-1 against the first engine's full "
        "depth; or the --json of an earlier run, whose figures are taken",
    )
    quality.add_argument(
        "--pieces", type=int, default=8, metavar="N", help="of the text (default: %(default)s)"
    )
    quality.add_argument("--plot", type=Path, metavar="HTML", help="speed-up over depth, a page")
    quality.add_argument(
        "--trace",
        type=Path,
        metavar="JSON",
        help="where the time goes: a prefill and three decode steps of each mode, by phase, layer "
        "and thread, in Chrome's trace format (open it at ui.perfetto.dev); onnxruntime's engines",
    )
    quality.add_argument("--json", action="store_true", help="every round as JSON")


def check_arguments(args: argparse.Namespace, paths: Sequence[Path]) -> None:
    """What can be said before an engine is loaded."""
    if not paths:
        raise RiverError("give an engine directory: --engine DIR")
    for batch in args.batch:
        Plan(args.new_tokens, args.rounds, batch)
    for length in args.context or ():
        if length < 1:
            raise RiverError(f"context must be at least 1 token, got {length}")
    for text in args.prompt or BUILT_IN[:1]:
        check_prompt(text, args)
    if args.peer and args.model is None:
        raise RiverError("peers need the weights that the engine was built from: --model MODEL")
    for path, what in (
        (args.quality, "quality"),
        (args.plot and args.plot.parent, "plot"),
        (args.trace and args.trace.parent, "trace"),
    ):
        if path is not None and not path.exists():
            raise RiverError(f"--{what}: {path} is not there")
