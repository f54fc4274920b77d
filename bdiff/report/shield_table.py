"""The tables of one run's shield: the classifier's accuracy by denoiser and kind of input."""

from collections.abc import Mapping

from bdiff.pipeline.names import KINDS, ROWS
from bdiff.report.sheet import Cell, Sheet
from bdiff.report.table import shown

#: the last column of certified accuracies: the average radius, or the number of draws per image
BESIDE = {"acr": "ACR", "draws": "draws"}


def shield_tables(metrics: Mapping[str, float]) -> list[Sheet]:
    """Return the tables of the shields in a run's metrics, empty if it had no shield."""
    return [table for table in (accuracy_table(metrics), certified_table(metrics)) if table.rows]


def accuracy_table(metrics: Mapping[str, float]) -> Sheet:
    """Return accuracies, and ASR: a row per model, a column per kind of input; an absent number is blank."""
    names = {row.purified: row.label for row in ROWS.values()}
    kinds = [kind for kind in KINDS if any(f"{who}/{kind}/accuracy" in metrics for who in names)]
    lines = {label: [*(f"{who}/{kind}/accuracy" for kind in kinds), f"{who}/asr"] for who, label in names.items()}
    return tabled("accuracy behind the shield", [*(KINDS[kind] for kind in kinds), "ASR"], lines, metrics)


def certified_table(metrics: Mapping[str, float]) -> Sheet:
    """Return certified accuracies at radii, and the average radius (ACR) or, without it, the draws."""
    radii = dict.fromkeys(name.rpartition("/acc@")[2] for name in metrics if "/acc@" in name)
    last = next((name for name in BESIDE if any(metric.endswith(f"/{name}") for metric in metrics)), "acr")
    columns = [f"acc@{radius}" for radius in radii] + [last]
    lines = {
        f"{row.label}, {words}": [f"{row.certified}/{kind}/{column}" for column in columns]
        for row in ROWS.values()
        for kind, words in KINDS.items()
    }
    return tabled("certified accuracy at L2 radii, images in [0,1]", [*radii, BESIDE[last]], lines, metrics)


def tabled(title: str, heads: list[str], lines: Mapping[str, list[str]], metrics: Mapping[str, float]) -> Sheet:
    """Return those of the `lines` that have numbers: by label, a metric per column."""
    rows = [
        [Cell(label), *(number(metrics, name) for name in names)]
        for label, names in lines.items()
        if any(name in metrics for name in names[:-1])
    ]
    return Sheet(title, ["", *heads], rows, [])


def number(metrics: Mapping[str, float], name: str) -> Cell:
    """Return a metric as tables show it."""
    return Cell(shown(name, metrics[name]), metrics[name]) if name in metrics else Cell("")
