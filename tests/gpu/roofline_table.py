"""The roofline records as a markdown table: share of the copy bandwidth, beside the baselines."""

from typing import Any

Record = dict[str, Any]
SHAPE = ("model", "linear", "n", "k", "rows")
COLUMNS = ("backbone", "river", "mixed", "cublas", "torch_int4")


def roofline_table(records: list[Record]) -> str:
    """A line for each linear and number of rows; needs the record of the copy."""
    copy = next(record for record in records if record["kernel"] == "copy")
    lines = [
        f"{copy['device']}: a device-to-device copy reaches {copy['gb_per_s']:.0f} GB/s.",
        "A cell is microseconds (percent of that bandwidth, counting the bytes needed once).",
        "",
        "| model | linear | n x k | rows | backbone | river | mixed | cuBLAS fp16 | torch int4 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    table: dict[tuple[Any, ...], dict[str, str]] = {}
    for record in records:
        if all(name in record for name in SHAPE):
            column = record.get("flags", record["kernel"])
            cells = table.setdefault(tuple(record[name] for name in SHAPE), {})
            cells[column] = cell(record, copy)
    for (model, linear, n, k, rows), cells in table.items():
        values = " | ".join(cells.get(column, "-") for column in COLUMNS)
        lines.append(f"| {model} | {linear} | {n} x {k} | {rows} | {values} |")
    lines += ["", "| kernel | what | us |", "|---|---|---|"]
    for record in records:
        if record["kernel"] == "attention":
            what = f"Llama-3.1-8B, batch {record['batch']}, past {record['past']}"
            lines.append(f"| attention | {what} | {cell(record, copy)} |")
        elif record["kernel"] == "gate":
            what = f"hidden 4096, {record['rows']} rows, scope {record['scope']}"
            lines.append(f"| gate | {what} | {record['us']:.1f} |")
    return "\n".join(lines) + "\n"


def cell(record: Record, copy: Record) -> str:
    share = 100 * record["gb_per_s"] / copy["gb_per_s"]
    return f"{record['us']:.1f} ({share:.0f} %)"
