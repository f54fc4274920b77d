"""Numbers for the terminal."""

from typing import Any

from rich.table import Table

#: digits after the point, by what is measured; small errors read better as powers of ten
FORMATS = {"fid": "{:.2f}", "fid_classifier": "{:.3f}", "psnr": "{:.2f}", "asr": "{:.3f}", "ssim": "{:.4f}"}


def shown(metric: str, value: float) -> str:
    """Return `value` of a metric named `who/what` as a table shows it."""
    return FORMATS.get(metric.rpartition("/")[2], "{:.3g}").format(value)


def metrics_table(record: dict[str, Any]) -> Table:
    """Return a table with a row per metric of a run; `record` is its metrics.json."""
    table = Table(title="metrics")
    table.add_column("metric")
    table.add_column(record["name"], justify="right")
    for metric, value in record["metrics"].items():
        table.add_row(metric, shown(metric, value))
    return table
