"""Formatting of numbers for the terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from bdiff.report.sheet import Sheet

#: formats by metric; small errors are more readable as powers of ten
THREE = ["asr", "class_asr", "false_trigger", "false_trigger_excess", "fid_classifier"]
THREE += ["accuracy", "acc", "acr", "tpr", "fpr", "auroc"]
FORMATS = {"fid": "{:.2f}", "psnr": "{:.2f}", "ssim": "{:.4f}"} | dict.fromkeys(THREE, "{:.3f}")


ERROR = "_se"  # suffix of a metric's standard error


def columns(metrics: Iterable[str]) -> list[str]:
    """Return the metrics with a column of their own: a standard error is shown next to its metric."""
    return [metric for metric in metrics if not metric.endswith(ERROR)]


def with_error(metric: str, metrics: Mapping[str, float]) -> str:
    """Return a metric as a table shows it, with its standard error if there is one.

    It is 0 if all samples are hits, or none is, which does not mean that the fraction is exact: the table says which.
    """
    value, error = metrics[metric], metrics.get(metric + ERROR)
    if error is None:
        return shown(metric, value)
    beside = f"se {error:.3f}" if error else {0.0: "none", 1.0: "all"}.get(value, "all alike")
    return f"{shown(metric, value)} ({beside})"


def shown(metric: str, value: float) -> str:
    """Return `value` of a metric named `who/what` as a table shows it."""
    what = metric.rpartition("/")[2].partition("@")[0]  # the radius of acc@0.25 is not its format
    return FORMATS.get(what, "{:.3g}").format(value)


def metrics_table(record: dict[str, Any]) -> Table:
    """Return a table with a row per metric of a run; `record` is its metrics.json."""
    table = Table(title="metrics")
    table.add_column("metric")
    table.add_column(record["name"], justify="right")
    for metric in columns(record["metrics"]):
        table.add_row(metric, with_error(metric, record["metrics"]))
    return table


def boxed(sheet: Sheet) -> Table:
    """Return a sheet as a table for the terminal, without its notes."""
    table = Table(title=sheet.title)
    for head, right in zip(sheet.heads, sheet.right, strict=True):
        table.add_column(head, justify="right" if right else "left")
    for row in sheet.rows:
        table.add_row(*(cell.text for cell in row))
    return table
