"""What `bench` prints: a table a load, then each engine's policy over everything else."""

from rich.console import Console

from river_trt.benchmark.arms import ENGINE_POLICY, FULL_DEPTH
from river_trt.benchmark.result import BenchCase, BenchResult
from river_trt.benchmark.summary import ArmSummary
from river_trt.cli.console import format_bytes, format_seconds, stdout_console
from river_trt.cli.inspect import summarise_tau
from river_trt.cli.tables import plain_table, print_table

COLUMNS = ("tokens/s", "ratio", "depth", "reads", "roof", "of it", "prefill")


def print_result(result: BenchResult) -> None:
    console = stdout_console()
    for engine in result.engines:
        label = f"{engine.label}: " if engine.label else ""
        console.print(
            f"{label}{engine.model}, {engine.backend}, backbone {engine.backbone}; "
            f"engine's tau: {summarise_tau(engine.tau)}",
            soft_wrap=True,
        )
    for case in result.cases:
        _print_case(console, result, case)
        _print_ratios(console, result, case)
    plan = result.cases[0].plan
    rounds = "One round" if plan.rounds == 1 else f"Medians of {plan.rounds} alternating rounds"
    lines = [
        f"{rounds}: {result.cases[0].num_prompts} x "
        f"{plan.new_tokens} tokens, decode steps only. "
        f"{result.said_bandwidth}",
        "tokens/s: with half the distance of the fastest round from the slowest",
        f"depth: mean backbone layers a token, of {result.engines[0].num_layers}",
        "reads: weights and cache a step; a step is a token of every row, whose tokens/s add up",
        "roof: tokens/s if reading at that speed were all there is to do",
    ]
    of_products = "" if result.products is None else (
        " (of what float32 products at that speed would give; integer ones may be faster)"
    )  # fmt: skip
    lines.append(f"prefill: prompt tokens/s{of_products}")
    roofs = [(s, s.roof(result.bandwidth)) for case in result.cases for s in case.summaries]
    if any(roof is not None and s.tokens_per_second.median > roof for s, roof in roofs):
        lines.append(
            "over 100 % of it: in part read from the processor's caches, or the memory was slower "
            "when it was measured"
        )
    if any(case.plan.batch > 1 for case in result.cases):
        lines.append(
            "mixed: how much longer a step takes than one whose rows are all as deep as their mean"
        )
        if result.peers:
            lines.append("Other runtimes take part with batch 1 only.")
    if result.quality:
        lines.append("KL (nats), top-1: against the first engine's full depth")
    else:
        lines.append("TTFT: time to first token")
    lines += [f"Not measured: {text}" for text in result.missing]
    for line in lines:
        console.print(line, soft_wrap=True)


def _print_case(console: Console, result: BenchResult, case: BenchCase) -> None:
    several = len(result.cases) > 1 or case.plan.batch > 1 or case.context is not None
    table = plain_table(case.title() if several else None)
    table.add_column("mode")
    mixed = case.plan.batch > 1
    last = ("KL", "top-1") if result.quality else ("TTFT",)
    for header in (*COLUMNS, *(("mixed",) if mixed else ()), *last):
        table.add_column(header, justify="right", no_wrap=True)
    for summary in case.summaries:
        cells = _cells(result, summary)
        if mixed:
            loss = result.mixed(case, summary)
            cells.append("" if loss is None else f"{loss:+.0%}")
        if not result.quality:
            cells.append(format_seconds(summary.first_token_seconds))
        else:
            quality = result.quality.get(summary.name)
            cells += ["", ""] if quality is None else [
                f"{quality.kl:.4f}",
                f"{quality.agreement:.1%}",
            ]  # fmt: skip
        table.add_row(summary.name, *cells)
    print_table(console, table)


def _cells(result: BenchResult, summary: ArmSummary) -> list[str]:
    speed, roof = summary.tokens_per_second, summary.roof(result.bandwidth)
    depth, reads = summary.mean_backbone_layers, summary.bytes_per_step
    products = summary.prefill_roof(result.products)
    share = "" if products is None else f" ({summary.prefill_rate / products:.0%})"
    spread = f" \u00b1{(speed.most - speed.least) / 2 / speed.median:.0%}"
    return [
        f"{speed.median:.1f}{spread if len(summary.rounds) > 1 else ''}",
        f"{summary.ratio:.2f}x",
        "" if depth is None else f"{depth:.1f}",
        "" if reads is None else format_bytes(reads),
        "" if roof is None else f"{roof:.0f}",
        "" if roof is None else f"{speed.median / roof:.0%}",
        f"{summary.prefill_rate:,.0f}{share}",
    ]


def _print_ratios(console: Console, result: BenchResult, case: BenchCase) -> None:
    """Every engine's own policy over each full depth and each other runtime."""
    own = [s for s in case.summaries if _mode(result, s) == ENGINE_POLICY.name]
    others = [s for s in case.summaries if _mode(result, s) in (FULL_DEPTH.name, None)]
    if len(own) + len(others) < 3:  # the table above says it all
        return
    table = plain_table()
    table.add_column("over")
    for summary in own:
        table.add_column(summary.name, justify="right")
    for other in others:
        ratios = [s.tokens_per_second.median / other.tokens_per_second.median for s in own]
        table.add_row(other.name, *(f"{ratio:.2f}x" for ratio in ratios))
    print_table(console, table)


def _mode(result: BenchResult, summary: ArmSummary) -> str | None:
    """The name of the mode; None of another runtime."""
    return result.arms[summary.name][1].name if summary.name in result.arms else None
