"""From runs with a shield to tables: the classifier's accuracy without and with each denoiser, by setting."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from bdiff.pipeline.names import KINDS, ROWS
from bdiff.report.benchmark import unfinished
from bdiff.report.cells import option, role
from bdiff.report.pivot import agree, counted, failures, label, latest, mean, ordered, origins, protocols, text, varying
from bdiff.report.runs import Run, flat
from bdiff.report.sheet import Cell, Sheet

#: keys of the protocol that follow from the shield's strength, in which compared runs may differ
STRENGTH = {"t", "sampler", "steps", "copies", "sigma", "network evaluations of an image"}

TPR, FPR = "strip/tpr", "strip/fpr"

#: the last column of certified accuracies: the average radius, or the number of draws per image
BESIDE = {"acr": "ACR", "draws": "draws"}

Cells = dict[tuple[str, ...], list[Run]]  # by the values of the rows' settings


class Line(NamedTuple):
    """A row for every setting: its leading texts, and its metrics, one per column."""

    words: tuple[str, ...]
    metrics: list[str]


def shielded(runs: Iterable[Run]) -> list[Run]:
    """Return the runs with a shield, finished or not."""
    return [run for run in runs if role(run, option(run, "defense")) == "shield"]


def shields(runs: Iterable[Run], rows: list[str] | None) -> list[Sheet]:
    """Return a table of the purified runs and one of the certified runs, if any is done.

    They have a shield's rows for each combination of the settings `rows`; None takes those in which the runs differ.
    Raises RequestError if runs of one setting differ in more than their seed.
    """
    asked = shielded(runs)
    done = [run for run in asked if run.done]
    sheets = []
    for about, table in (("shield", purified), ("certification", certified)):
        if own := [run for run in done if about in run.record["protocol"]]:
            sheets.append(table(own, rows))
    if sheets:
        sheets[-1] = replace(sheets[-1], notes=[*sheets[-1].notes, *gaps(unfinished(asked))])
    return sheets


def purified(runs: Sequence[Run], rows: list[str] | None) -> Sheet:
    """Return accuracies, a column per kind of input, and ASR; the entropy check's rates are in the notes."""
    present = {metric for run in runs for metric in run.metrics}
    kinds = [kind for kind in KINDS if any(f"{row.purified}/{kind}/accuracy" in present for row in ROWS.values())]
    lines = [
        Line((row.label,), [*(f"{row.purified}/{kind}/accuracy" for kind in kinds), f"{row.purified}/asr"])
        for row in ROWS.values()
    ]
    heads = ["shield", *(KINDS[kind] for kind in kinds), "ASR"]
    keys, cells = settings(runs, rows)
    checks = [f"{strip(keys, place)}: TPR {mean(members, TPR).text}, FPR {mean(members, FPR).text}"
              for place, members in cells.items() if any(TPR in run.metrics for run in members)]  # fmt: skip
    sheet = tabled("accuracy behind the shield", runs, keys, cells, heads, lines, "shield")
    return replace(sheet, notes=[*sheet.notes, *checks])


def strip(keys: Sequence[str], place: Sequence[str]) -> str:
    """Return a description of where the entropy check was applied."""
    where = (f"{key}={word}" for key, word in zip(keys, place, strict=True))
    return ", ".join(["STRIP behind the shield with the suspect", *where])


def certified(runs: Sequence[Run], rows: list[str] | None) -> Sheet:
    """Return certified accuracies, a column per radius, and the average radius (ACR) or the draws of an image."""
    present = {metric.rpartition("/")[2] for run in runs for metric in run.metrics}
    radii = sorted((name for name in present if name.startswith("acc@")), key=lambda name: float(name[4:]))
    beside = [name for name in BESIDE if name in present] or ["acr"]
    lines = [
        Line((row.label, words), [f"{row.certified}/{kind}/{column}" for column in (*radii, *beside)])
        for row in ROWS.values()
        for kind, words in KINDS.items()
    ]
    heads = ["shield", "input", *radii, *(BESIDE[name] for name in beside)]
    title = "certified accuracy at L2 radii, images in [0,1]"
    return tabled(title, runs, *settings(runs, rows), heads, lines, "certification")


def settings(runs: Sequence[Run], rows: list[str] | None) -> tuple[list[str], Cells]:
    """Return the settings of the leading columns, and the runs of each combination of them, in order.

    A key of `rows` that no run has is skipped, as it belongs to the other table's runs.
    """
    keys = varying(runs, []) if rows is None else [key for key in rows if any(key in run.settings for run in runs)]
    used = latest(runs, keys)
    cells = {place: [run for run in used if label(run, keys) == place]
             for place in ordered({label(run, keys) for run in used})}  # fmt: skip
    for members in cells.values():
        agree(members)
    return keys, cells


def tabled(
    title: str, runs: Sequence[Run], keys: list[str], cells: Cells, heads: list[str], lines: list[Line], about: str
) -> Sheet:
    """Return the table of those `lines` of each setting for which any of its runs has numbers.

    `about` is the part of the protocol that describes how they were measured.
    """
    body = [
        [*map(Cell, (*place, *line.words)), *(number(members, metric) for metric in line.metrics)]
        for place, members in cells.items()
        for line in lines
        if any(metric in run.metrics for run in members for metric in line.metrics)
    ]
    used = [run for members in cells.values() for run in members]
    notes = [counted(runs, used), *protocols(measured(used, about), [about]), *origins(used)]
    return Sheet(f"{title}{' by ' if keys else ''}{', '.join(keys)}", [*keys, *heads], body, notes)


def number(runs: Sequence[Run], metric: str) -> Cell:
    """Return the mean of the metric over seeds, or a dash if it was not measured."""
    return mean(runs, metric) if any(metric in run.metrics for run in runs) else Cell("-", n=0)


def measured(runs: Sequence[Run], about: str) -> list[Run]:
    """Return the runs with only the protocol `about`, without what the table shows and strengths that vary."""
    facts = [flat(run.record["protocol"][about]) for run in runs]
    varied = {key for key in STRENGTH if len({text(own.get(key)) for own in facts}) > 1}
    kept = [{key: value for key, value in own.items() if key not in varied | {"radii"}
             and not key.startswith("tables.") and not key.endswith(".absent")} for own in facts]  # fmt: skip
    return [replace(run, record=run.record | {"protocol": {about: own}}) for run, own in zip(runs, kept, strict=True)]


def gaps(broken: Sequence[Run]) -> list[str]:
    """Return how many runs with a shield are unfinished, and why runs failed."""
    if not broken:
        return []
    states = Counter(run.record["status"] for run in broken)
    return [f"not in the tables: {', '.join(f'{count} {state}' for state, count in states.items())}", *failures(broken)]
