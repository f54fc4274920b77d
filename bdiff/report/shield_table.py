"""A shield's tables for the terminal: with which model it stands, and what the classifier makes of which inputs."""

from collections.abc import Mapping
from typing import NamedTuple

from rich.table import Table

from bdiff.report.table import shown


class Row(NamedTuple):
    """A row of the tables: in words, and what its metrics begin with."""

    label: str
    purified: str
    certified: str


ROWS = {
    "none": Row("no shield", "no_shield", "certified_no_shield"),
    "clean": Row("shield with the clean model", "shield_clean_model", "certified_clean_model"),
    "suspect": Row("shield with the suspect", "shield", "certified"),
    "ensemble": Row("shield with both models", "shield_ensemble", "certified_ensemble"),
    "repaired": Row("shield with the suspect repaired", "shield_repaired", "certified_repaired"),
}
#: kinds of input, as metrics and as readers call them
KINDS = {
    "clean": "clean",
    "adversarial": "adversarial",
    "triggered": "triggered",
    "triggered_adversarial": "triggered + adversarial",
    "adaptive": "adaptive",
}


def shield_tables(metrics: Mapping[str, float]) -> list[Table]:
    """Return the tables of the shields that a run's metrics tell of, none where it had no shield."""
    tables = [accuracy_table(metrics), certified_table(metrics)]
    return [table for table in tables if table.rows]


def accuracy_table(metrics: Mapping[str, float]) -> Table:
    """Return accuracies, and ASR: a row per model, a column per kind of input; a number that is absent is blank."""
    names = {row.purified: row.label for row in ROWS.values()}
    kinds = [kind for kind in KINDS if any(f"{who}/{kind}/accuracy" in metrics for who in names)]
    table = titled("accuracy behind the shield", [KINDS[kind] for kind in kinds] + ["ASR"])
    for who, label in names.items():
        cells = [f"{who}/{kind}/accuracy" for kind in kinds]
        if any(cell in metrics for cell in cells):
            table.add_row(label, *(number(metrics, cell) for cell in [*cells, f"{who}/asr"]))
    return table


def certified_table(metrics: Mapping[str, float]) -> Table:
    """Return certified accuracies at radii, and the average radius (ACR): a row per model and kind of input."""
    radii = dict.fromkeys(name.rpartition("/acc@")[2] for name in metrics if "/acc@" in name)
    columns = [f"acc@{radius}" for radius in radii] + ["acr"]
    table = titled("certified accuracy at L2 radii, images in [0,1]", [*radii, "ACR"])
    for row in ROWS.values():
        for kind, words in KINDS.items():
            cells = [f"{row.certified}/{kind}/{column}" for column in columns]
            if any(cell in metrics for cell in cells):
                table.add_row(f"{row.label}, {words}", *(number(metrics, cell) for cell in cells))
    return table


def titled(title: str, columns: list[str]) -> Table:
    """Return an empty table, its first column for labels."""
    table = Table("", title=title)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def number(metrics: Mapping[str, float], name: str) -> str:
    """Return a metric as the tables show it."""
    return shown("/asr", metrics[name]) if name in metrics else ""
