"""The decode records as a markdown table: ratios to full depth and shares of the bandwidth."""

from typing import Any

FULL_DEPTH = "full depth, our kernels"


def decode_table(report: dict[str, Any]) -> str:
    """A line for each model, batch and arm."""
    lines = [
        f"{report['device']}, torch {report['torch']}: a copy reaches "
        f"{report['copy_gb_per_s']:.0f} GB/s. {report['context']} tokens in every row's cache; one "
        "token a row and step. GB: weights and cache that the step must read.",
        "",
        "| model | batch | what runs | backbone layers | ms | tokens/s | x full depth | GB "
        "| % of copy |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    full = {
        (record["model"], record["batch"]): record["ms"]
        for record in report["records"]
        if record["arm"] == FULL_DEPTH
    }
    for record in report["records"]:
        ms, gigabytes = record["ms"], record["num_bytes"] / 1e9
        ratio = full.get((record["model"], record["batch"]), float("nan")) / ms
        share = 100 * gigabytes / (ms / 1000) / report["copy_gb_per_s"]
        layers = record["backbone_layers"]
        model = record["model"]
        if record["full_layers"] != record["num_layers"]:
            model += f", {record['num_layers']} of {record['full_layers']} layers"
        lines.append(
            f"| {model} | {record['batch']} | {record['arm']} | "
            f"{'-' if layers is None else f'{layers:.1f}'} | {ms:.3f} | "
            f"{1000 * record['batch'] / ms:.1f} | {ratio:.2f} | {gigabytes:.2f} | {share:.0f} |"
        )
    for title in ("problems", "left_out"):
        lines += ["", *(f"- {title.replace('_', ' ')}: {text}" for text in report[title])]
    return "\n".join(lines).rstrip() + "\n"
