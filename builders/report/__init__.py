"""One self-contained HTML page from measured policies. `write_report(data, path)` writes it."""
