"""Numbers for the terminal."""

from typing import Any

from rich.table import Table

#: digits after the point, by what is measured; small errors read better as powers of ten
FORMATS = {"fid": "{:.2f}", "fid_classifier": "{:.3f}", "psnr": "{:.2f}", "asr": "{:.3f}", "ssim": "{:.4f}"}


def shown(metric: str, value: float) -> str:
    """Return `value` of a metric named `who/what` as a table shows it."""
    return FORMATS.get(metric.rpartition("/")[2], "{:.3g}").format(value)


def labels(runs: list[dict[str, Any]]) -> list[str]:
    """Return what tells runs apart: the overrides that they do not share, or the name of a lone run."""
    shared = set.intersection(*(set(run["overrides"]) for run in runs))
    own = [" ".join(word for word in run["overrides"] if word not in shared) for run in runs]
    return [word or run["name"] for word, run in zip(own, runs, strict=True)]


def metrics_table(runs: list[dict[str, Any]]) -> Table:
    """Return a table with a row per metric and a column per run; `runs` are metrics.json contents."""
    table = Table(title="metrics")
    table.add_column("metric")
    for label in labels(runs):
        table.add_column(label, justify="right")
    names = dict.fromkeys(metric for run in runs for metric in run["metrics"])
    for metric in names:
        cells = (run["metrics"].get(metric) for run in runs)
        table.add_row(metric, *("-" if value is None else shown(metric, value) for value in cells))
    return table
