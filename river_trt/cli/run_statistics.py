"""What `run --stats` prints: speed, depth, and where the tokens left the backbone."""

from typing import Any

import numpy as np
from rich.bar import Bar

from river_trt.cli.console import format_seconds, stdout_console
from river_trt.cli.tables import facts_table, plain_table, print_table
from river_trt.lossless.length import estimate_speedup
from river_trt.results import GenerationResult, Speculation

BAR_WIDTH = 36


def decode_rate(result: GenerationResult) -> float | None:
    """Tokens a second of the decode steps; None when the prefill's token was the only one."""
    steps = len(result.token_ids) - 1
    return steps / result.decode_seconds if steps else None


def describe_speculation(speculation: Speculation) -> dict[str, Any]:
    """As JSON; the lists have an entry a round."""
    return {
        "drafted": speculation.drafted.tolist(),
        "accepted": speculation.accepted.tolist(),
        "draft_seconds": speculation.draft_seconds,
        "verify_seconds": speculation.verify_seconds,
        "acceptance": speculation.acceptance,
        "tokens_per_round": speculation.tokens_per_round,
        "estimated_speedup": estimate_speedup(speculation),
    }


def print_statistics(
    result: GenerationResult, num_layers: int, load_seconds: float, compile_seconds: float
) -> None:
    """compile_seconds: of the kernels, 0 where they were there."""
    # The first token ends the prefill: it says nothing about decoding.
    exits, depths = result.exit_layers[1:], result.backbone_layers[1:]
    rate = decode_rate(result)
    speed = "" if rate is None else f", {rate:.1f} tokens/s"
    first = format_seconds(result.prefill_seconds)
    facts = [
        ("engine", f"loaded in {format_seconds(load_seconds)}"),
        (
            "prompt",
            f"{result.prompt_tokens} tokens, time to first token {first}, "
            f"{result.prefill_rate:,.1f} tokens/s",
        ),
        ("generated", f"{len(result.token_ids)} tokens ({result.finish_reason}){speed}"),
    ]
    if compile_seconds:
        facts.insert(0, ("kernels", f"compiled in {format_seconds(compile_seconds)}, once"))
    if result.speculation is not None:
        facts += _speculation_facts(result.speculation)
    elif len(depths):
        facts.append(("backbone", f"{depths.mean():.1f} of {num_layers} layers a token, mean"))
    console = stdout_console()
    console.print()
    console.print(facts_table(facts))
    if not len(exits) or result.speculation is not None:
        return
    table = plain_table()
    table.add_column("exit layer", justify="right")
    table.add_column("", max_width=BAR_WIDTH)
    table.add_column("tokens", justify="right")
    table.add_column("share", justify="right")
    layers, counts = np.unique(exits, return_counts=True)
    for layer, count in zip(layers.tolist(), counts.tolist(), strict=True):
        name = f"{layer} (none)" if layer == num_layers else str(layer)
        bar = Bar(int(counts.max()), 0, count, color="cyan")
        table.add_row(name, bar, str(count), f"{count / len(exits):.0%}")
    print_table(console, table)


def _speculation_facts(speculation: Speculation) -> list[tuple[str, str]]:
    if not len(speculation.drafted):
        return []
    drafted, accepted = int(speculation.drafted.sum()), int(speculation.accepted.sum())
    share = "" if speculation.acceptance is None else f" ({speculation.acceptance:.0%})"
    return [
        (
            "lossless",
            f"{len(speculation.drafted)} verifications, {drafted} tokens drafted, "
            f"{accepted} accepted{share}, {speculation.tokens_per_round:.2f} tokens a verification",
        ),
        (
            "time",
            f"drafting {format_seconds(speculation.draft_seconds)}, verifying "
            f"{format_seconds(speculation.verify_seconds)}; about "
            f"{estimate_speedup(speculation):.2f}x full depth (`bench` measures it)",
        ),
    ]
