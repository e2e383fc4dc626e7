"""One self-contained HTML page from measured policies."""

from builders.report.data import LayerScores, PolicyPoint, ReportData, TokenDepths
from builders.report.page import write_report

__all__ = ["LayerScores", "PolicyPoint", "ReportData", "TokenDepths", "write_report"]
