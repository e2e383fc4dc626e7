"""`river-trt run`: generate from one prompt, streaming the text as it comes."""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from river_trt.cli.arguments import (
    DEFAULTS,
    add_chat_arguments,
    add_load_arguments,
    check_prompt,
    encode_prompt,
    engine_path,
    load_engine,
    parse_ids,
    parse_pinned,
    parse_tau,
)
from river_trt.cli.command import Command
from river_trt.cli.console import Stopwatch, print_json, show_progress, stderr_console
from river_trt.cli.run_statistics import decode_rate, describe_speculation, print_statistics
from river_trt.config import GenerationConfig
from river_trt.engine import Engine
from river_trt.errors import RiverError
from river_trt.results import GenerationResult

EXAMPLES = """\
  river-trt run --engine engine/ --chat --prompt "Why is the sky blue?" --stats
  river-trt run --engine engine/ --prompt "The river" --full-depth       the plain model
  river-trt run --engine engine/ --prompt "The river" --lossless --stats the same text, faster
  river-trt run --engine engine/ --prompt "The river" --policy fast      exit earlier
  river-trt run --engine engine/ --prompt "The river" --tau -inf --pinned 1,2,30
  river-trt run --engine engine/ --chat --temperature 0.7 --top-p 0.9 --seed 1 < question.txt
  river-trt run --engine engine/ --prompt "The river" --json | jq .backbone_layers
  river-trt run --engine engine/ --chat --prompt "Describe a city." --json-schema city.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_load_arguments(parser)
    prompt = parser.add_argument_group("prompt (without one, stdin is the prompt)")
    texts = prompt.add_mutually_exclusive_group()
    texts.add_argument("--prompt", metavar="TEXT", help="what to continue")
    texts.add_argument(
        "--prompt-ids",
        type=parse_ids,
        metavar="1,2,3",
        help="token ids, for an engine without a tokenizer",
    )
    add_chat_arguments(prompt)

    policy = parser.add_argument_group("exit policy (default: the engine's own)")
    taus = policy.add_mutually_exclusive_group()
    taus.add_argument(
        "--tau",
        type=parse_tau,
        metavar="X",
        help="exit where the gate's score is above X: a number, inf (never), -inf (at once), "
        "or one value a layer, joined by commas",
    )
    taus.add_argument(
        "--full-depth", action="store_true", help="never exit: the plain model, as --tau inf"
    )
    taus.add_argument(
        "--lossless",
        action="store_true",
        help="the plain model's output, drafted by the river and verified by the backbone",
    )
    policy.add_argument(
        "--policy",
        metavar="NAME",
        help="one of the engine's policies by name, as `inspect` lists them: exact, quality, "
        "balanced, fast",
    )
    policy.add_argument(
        "--pinned",
        type=parse_pinned,
        metavar="1,30",
        help="layers that always run the backbone; `none` for no layer",
    )
    policy.add_argument(
        "--max-draft-tokens",
        type=int,
        default=DEFAULTS["max_draft_tokens"],
        metavar="N",
        help="with --lossless: tokens drafted for a verification at most (default: %(default)s)",
    )
    _add_sampling(parser)

    output = parser.add_argument_group("output")
    output.add_argument(
        "--stats",
        action="store_true",
        help="after the text: tokens/s, time to first token, where the tokens exited",
    )
    output.add_argument(
        "--json",
        action="store_true",
        help="one JSON object in place of the text, statistics included",
    )


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("generation")

    def add(name: str, kind: Any, help_text: str) -> None:
        default = DEFAULTS[name.replace("-", "_")]
        shown = "" if default is None else " (default: %(default)s)"
        group.add_argument(
            f"--{name}",
            type=kind,
            default=default,
            metavar="N" if kind is int else "X",
            help=help_text + shown,
        )

    add("max-new-tokens", int, "stop after this many tokens")
    add("temperature", float, "0 is greedy; this and the next four default to the publisher's")
    add("top-k", int, "sample from the k likeliest tokens; 0 is off")
    add("top-p", float, "sample from the likeliest tokens that add up to p; 1 is off")
    add("min-p", float, "drop tokens less than p times as likely as the best; 0 is off")
    add("repetition-penalty", float, "above 1 discourages tokens already there; 1 is off")
    add("presence-penalty", float, "above 0 discourages tokens of the text, not the prompt")
    add("frequency-penalty", float, "the same for each time that they came")
    add("seed", int, "makes sampling repeatable")
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end before this text; may be given several times",
    )
    group.add_argument(
        "--json-schema",
        type=_read_schema,
        metavar="FILE",
        help="the text is JSON by the schema in this file (extra `serve`)",
    )
    group.add_argument(
        "--ignore-eos", action="store_true", help="go on after an end-of-sequence token"
    )


def _read_schema(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {path}: {error}") from error


def execute(args: argparse.Namespace) -> int:
    engine_path(args)  # before stdin is read
    config = generation_config(args)
    if args.prompt_ids is not None and (args.chat or args.system is not None):
        raise RiverError("--chat and --system need a text; with --prompt-ids give the whole prompt")
    text = None if args.prompt_ids is not None else _prompt_text(args)
    started = time.perf_counter()
    with show_progress() as progress:
        compiling = Stopwatch(progress)
        engine = load_engine(args, compiling)
    load_seconds = time.perf_counter() - started - compiling.seconds
    if text is not None and engine.tokenizer is None:
        raise RiverError("this engine has no tokenizer; give --prompt-ids in place of a text")
    prompt = args.prompt_ids
    if text is not None:
        prompt = encode_prompt(engine, text, args, args.chat)

    result = _generate(engine, prompt, config, quiet=args.json)
    if args.json:
        print_json(describe(result, load_seconds, compiling.seconds))
    elif args.stats:
        print_statistics(result, engine.num_layers, load_seconds, compiling.seconds)
    return 0


def generation_config(args: argparse.Namespace) -> GenerationConfig:
    """The options of the same names; raises RiverError for a value out of range."""
    given = {name: value for name, value in vars(args).items() if name in DEFAULTS}
    if args.full_depth:
        given["tau"] = float("inf")
    if args.lossless:
        given["mode"] = "lossless"
    return GenerationConfig(**given)


def describe(
    result: GenerationResult, load_seconds: float, compile_seconds: float
) -> dict[str, Any]:
    """The JSON of a result; times in seconds, the first token belongs to the prefill."""
    return {
        "text": result.text,
        "token_ids": result.token_ids,
        "finish_reason": result.finish_reason,
        "prompt_tokens": result.prompt_tokens,
        "exit_layers": result.exit_layers.tolist(),
        "backbone_layers": result.backbone_layers.tolist(),
        "speculation": result.speculation and describe_speculation(result.speculation),
        "timings": {
            "load_seconds": load_seconds,
            "compile_seconds": compile_seconds,
            "prefill_seconds": result.prefill_seconds,
            "decode_seconds": result.decode_seconds,
            "prefill_tokens_per_second": result.prefill_rate,
            "tokens_per_second": decode_rate(result),
        },
    }


def _prompt_text(args: argparse.Namespace) -> str:
    if args.prompt is not None:
        return check_prompt(args.prompt, args)
    if sys.stdin.isatty():
        stderr_console().print("prompt (end it with Ctrl-D on an empty line):")
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise RiverError("the prompt on stdin is not UTF-8 text") from error
    return check_prompt(text.removesuffix("\n"), args)  # the newline is the shell's, not meant


def _generate(
    engine: Engine, prompt: str | list[int], config: GenerationConfig, quiet: bool
) -> GenerationResult:
    result = None
    for event in engine.stream(prompt, config):
        if not quiet:
            sys.stdout.write(event.text if engine.tokenizer else f"{event.token_id} ")
            sys.stdout.flush()
        result = event.result
    if not quiet:
        sys.stdout.write("\n")
    assert result is not None  # a stream ends with its row's result
    return result


COMMAND = Command(
    "run", "Generate text with an engine, token by token.", EXAMPLES, add_arguments, execute
)
