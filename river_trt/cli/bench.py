"""`river-trt bench`: an engine's exit policies side by side, in one run."""

import argparse
import dataclasses
import math
from typing import Any

from river_trt.benchmark import (
    ALL_RIVER,
    ENGINE_POLICY,
    FULL_DEPTH,
    Arm,
    ArmSummary,
    Plan,
    measure,
    summarise,
)
from river_trt.cli.arguments import (
    add_chat_arguments,
    add_load_arguments,
    check_prompt,
    encode_prompt,
    load_engine,
    parse_tau,
)
from river_trt.cli.command import Command
from river_trt.cli.console import (
    format_bytes,
    format_seconds,
    plain_table,
    print_json,
    show_progress,
    stdout_console,
)
from river_trt.cli.inspect import summarise_tau
from river_trt.engine import Engine, Prompt
from river_trt.errors import RiverError

EXAMPLES = """\
  river-trt bench engine/                          full depth, the engine's policy, all river
  river-trt bench engine/ --tau 0.95 --tau 0.97    two more policies beside them
  river-trt bench engine/ --prompt "Tell me a story" --chat --new-tokens 256
  river-trt bench engine/ --batch 4 --threads 2 --json > bench.json

Greedy, end-of-sequence tokens ignored, warm-up excluded; decode steps only, prefill apart.
"""
PROMPTS = (
    "Why is the sky blue?",
    "Write a short story about a river that forgot the way to the sea.",
    "List three habits that help people to learn a new language.",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_load_arguments(parser)
    defaults = Plan()
    parser.add_argument(
        "--tau",
        type=parse_tau,
        action="append",
        default=[],
        metavar="X",
        help="measure this threshold too; may be given several times",
    )
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="in place of the built-in prompts; may be given several times",
    )
    add_chat_arguments(parser)
    for name, help_text in (
        ("new-tokens", "tokens decoded for each prompt"),
        ("rounds", "measurements of each policy, alternating"),
        ("batch", "prompts decoded together"),
    ):
        default = getattr(defaults, name.replace("-", "_"))
        help_text += " (default: %(default)s)"
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=help_text)
    parser.add_argument("--json", action="store_true", help="every round as JSON")


def execute(args: argparse.Namespace) -> int:
    plan = Plan(args.new_tokens, args.rounds, args.batch)
    for text in args.prompt or PROMPTS[:1]:
        check_prompt(text, args)
    engine = load_engine(args, plan.batch)
    arms = [FULL_DEPTH, ENGINE_POLICY, ALL_RIVER, *(Arm(_name(tau), tau) for tau in args.tau)]
    prompts = _prompts(engine, args)
    with show_progress() as progress:
        summaries = summarise(arms, measure(engine, prompts, arms, plan, progress))
    if args.json:
        settings = dataclasses.asdict(plan) | {"prompts": len(prompts), "threads": args.threads}
        model = engine.manifest.model.name
        print_json({"model": model} | settings | {"arms": [describe(s) for s in summaries]})
    else:
        _print_table(engine, plan, len(prompts), summaries)
    return 0


def describe(summary: ArmSummary) -> dict[str, Any]:
    """An arm as JSON. JSON has no infinity: "inf" and "-inf", as in a manifest."""
    values = dataclasses.asdict(summary)
    arm: dict[str, Any] = values.pop("arm")
    if arm["tau"] is not None:
        taus = [f"{tau:g}" if math.isinf(tau) else tau for tau in _values(summary.arm)]
        arm["tau"] = taus if len(taus) > 1 else taus[0]
    return arm | values


def _prompts(engine: Engine, args: argparse.Namespace) -> list[Prompt]:
    if engine.tokenizer is None:
        if args.prompt or args.chat:
            raise RiverError("this engine has no tokenizer; bench it without --prompt and --chat")
        return [list(range(min(16, engine.manifest.model.shape.vocab_size)))]
    built_in_chat = not args.prompt and engine.tokenizer.has_chat_template
    chat = args.chat or built_in_chat
    return [encode_prompt(engine, text, chat, args.system) for text in args.prompt or PROMPTS]


def _print_table(engine: Engine, plan: Plan, num_prompts: int, summaries: list[ArmSummary]) -> None:
    manifest = engine.manifest
    table = plain_table()
    table.add_column("policy", overflow="fold", min_width=len(FULL_DEPTH.name))
    for header in ("tokens/s", "min-max", "ratio", "depth", "reads", "GB/s", "TTFT"):
        table.add_column(header, justify="right", no_wrap=True)
    for summary in summaries:
        speed = summary.tokens_per_second
        table.add_row(
            summary.arm.name,
            f"{speed.median:.1f}",
            f"{speed.least:.1f}-{speed.most:.1f}",
            f"{summary.ratio:.2f}x",
            f"{summary.mean_backbone_layers:.1f}",
            format_bytes(summary.bytes_per_step),
            f"{summary.bytes_per_second / 1e9:.1f}",
            format_seconds(summary.first_token_seconds),
        )
    console = stdout_console()
    console.print(f"{manifest.model.name}; engine's tau: {summarise_tau(manifest.policy.tau)}")
    console.print(table)
    step = "token" if plan.batch == 1 else f"step of {plan.batch} rows, whose tokens/s add up"
    console.print(
        f"Medians of {plan.rounds} alternating rounds: {num_prompts} x {plan.new_tokens} tokens, "
        f"decode steps only.\n"
        f"depth: mean backbone layers a token, of {engine.num_layers}\n"
        f"reads: weights a {step}\n"
        f"TTFT:  time to first token"
    )


def _name(tau: float | tuple[float, ...]) -> str:
    return f"tau {tau:g}" if isinstance(tau, float) else f"tau {summarise_tau(tau)}"


def _values(arm: Arm) -> list[float]:
    assert arm.tau is not None
    return [arm.tau] if isinstance(arm.tau, float) else list(arm.tau)


COMMAND = Command(
    "bench",
    "Measure an engine's exit policies side by side, in one run.",
    EXAMPLES,
    add_arguments,
    execute,
)
