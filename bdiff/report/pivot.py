"""From runs to a table: the runs of each cell, their mean over seeds, and the settings that distinguish cells."""

import json
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from bdiff.common.errors import RequestError, few
from bdiff.report.runs import Run, flat
from bdiff.report.sheet import Cell, Sheet
from bdiff.report.table import columns, shown, with_error
from bdiff.store.ledger import ASIDE
from bdiff.store.provenance import in_words

#: what of a config does not affect a run's numbers, such as its name and folders, and what is only said of its attack
IDLE = {*ASIDE, "published", "seed", "attack.adaptive_to"}

#: the order of metrics; others follow by name
ORDER = ["asr", "class_asr", "class_asr_real", "class_precision", "class_precision_real", "false_trigger"]
ORDER += ["false_trigger_excess", "mse", "ssim", "psnr", "lpips", "fid", "fid_classifier"]

MISSING = "missing"

#: facts of protocols that say what was expected of a number, not how it was measured
EXPECTED = "expected"
#: facts of the protocol of a detection or an input check that are of the model, not of how it is judged
OF_MODELS = ("backdoored", "absent")


def pivot(runs: Sequence[Run], rows: list[str] | None, cols: list[str], metrics: list[str]) -> Sheet:
    """Return a row for each combination of the settings `rows`, and columns for those of `cols` times `metrics`.

    With `rows` None, the settings in which the runs differ are used. Raises RequestError if runs of one cell differ in
    more than their seed.
    """
    keys = varying(runs, cols) if rows is None else rows
    used = latest(runs, [*keys, *cols])
    cells: dict[tuple[str, ...], dict[tuple[str, ...], list[Run]]] = {}
    for run in used:
        cells.setdefault(label(run, keys), {}).setdefault(label(run, cols), []).append(run)
    places = ordered({place for row in cells.values() for place in row})
    for row in cells.values():
        for members in row.values():
            agree(members)
    heads = [head(cols, place, short(metric) if len(metrics) > 1 or not cols else "")
             for place in places for metric in metrics]  # fmt: skip
    body = [
        [*map(Cell, row), *(mean(cells[row].get(place, []), metric) for place in places for metric in metrics)]
        for row in ordered(cells)
    ]
    title = f"{', '.join(map(short, metrics))} by {', '.join(keys)}" + (f" × {', '.join(cols)}" if cols else "")
    notes = [counted(runs, used), *protocols(used, metrics), *origins(used), *failures(used)]
    return Sheet(title, [*keys, *heads], body, notes)


def head(cols: list[str], place: tuple[str, ...], metric: str) -> str:
    """Return a column's head: the values of `cols`, with the key for a bare yes or no, and the metric."""
    words = [f"{key.rpartition('.')[2]}={word}" if word in ("true", "false", "-") else word
             for key, word in zip(cols, place, strict=True)]  # fmt: skip
    return " ".join(filter(None, [*words, metric]))


def mean(runs: Sequence[Run], metric: str) -> Cell:
    """Return the mean of `metric` over runs that differ in their seed, with its sample standard deviation.

    A dash if it was not measured, as by an earlier version.
    """
    values = [run.metrics[metric] for run in runs if run.done and metric in run.metrics]
    if not values:
        words = {run.record["status"] for run in runs}
        state = next((state for state in ("failed", "running", "interrupted") if state in words), None)
        return Cell(state or ("-" if runs else MISSING), n=0)
    middle = statistics.fmean(values)
    if len(values) == 1:
        (run,) = (run for run in runs if run.done and metric in run.metrics)
        return Cell(with_error(metric, run.metrics), middle, n=1)
    spread = statistics.stdev(values)
    return Cell(f"{shown(metric, middle)} ± {shown(metric, spread)} (n={len(values)})", middle, spread, len(values))


def latest(runs: Iterable[Run], keys: list[str]) -> list[Run]:
    """Return one run for each config, seed and setting of `keys`: the newest that is done, else the newest.

    First of runs with the same precisions, typed or not, then of those that differ in what their devices chose.
    """
    found = [*runs]
    for chosen in (True, False):
        found.sort(key=lambda run: (run.done, (run.folder / "metrics.json").stat().st_mtime))
        found = [*{(identity(run, chosen), run.value("seed"), label(run, keys)): run for run in found}.values()]
    return found


def identity(run: Run, chosen: bool = False) -> str:
    """Return the settings that determine a run's numbers, except its seed, as one text.

    A precision that was not typed is the device's choice, which the protocol has: it is among them only with `chosen`.
    """
    typed = {*run.typed}
    settings = {
        key: text(value)
        for key, value in flat(run.config).items()
        if decides(key) and value is not None and (chosen or key in typed or not key.endswith(".precision"))
    }
    return json.dumps(settings, sort_keys=True)


def decides(key: str) -> bool:
    """Return whether a setting can distinguish cells."""
    return not IDLE & {key, key.partition(".")[0]}


def agree(runs: Sequence[Run]) -> None:
    """Raise RequestError, naming the key, if runs of one cell differ in more than their seed."""
    if keys := apart(runs):
        values = ", ".join(f"{key} ({', '.join(sorted({text(run.value(key)) for run in runs}))})" for key in keys[:3])
        raise RequestError(
            f"{len(runs)} runs belong to one cell but differ in {values}: add {keys[0]} to --rows or --cols, "
            f"or give a folder with fewer runs (two of these are {runs[0].folder} and {runs[-1].folder})"
        )


def apart(runs: Sequence[Run]) -> list[str]:
    """Return the settings in which `runs` differ, if in more than their seed and what their devices chose.

    Empty if it is only that a precision was typed for one of them, which the device of another chose too.
    """
    return differences(runs) if len({identity(run) for run in runs}) > 1 else []


def typed(runs: Sequence[Run]) -> list[str]:
    """Return the settings that were typed for some of `runs` and in which they differ."""
    return [
        key for key in dict.fromkeys(key for run in runs for key in run.typed) if decides(key) and differ(runs, key)
    ]


def differences(runs: Sequence[Run]) -> list[str]:
    """Return the settings in which the configs of `runs` differ: those typed, else groups and keys in order."""
    if named := [key for key in typed(runs) if key != "experiment"]:  # which only stands for other settings
        return named
    groups = [group for group in runs[0].record.get("choices", {}) if differ(runs, group)]
    leaves = [key for key in dict.fromkeys(key for run in runs for key in flat(run.config)) if decides(key)]
    found = (next((group for group in groups if key.startswith(f"{group.replace('/', '.')}.")), key)
             for key in leaves if differ(runs, key))  # fmt: skip
    return list(dict.fromkeys(found))


def differ(runs: Sequence[Run], key: str) -> bool:
    """Return whether `runs` have more than one value of `key`."""
    return len({text(run.value(key)) for run in runs}) > 1


def varying(runs: Sequence[Run], cols: list[str]) -> list[str]:
    """Return settings, other than `cols`, that distinguish all runs that differ in more than their seed."""
    keys = [key for key in typed(runs) if key not in cols]
    while True:
        cells: dict[tuple[str, ...], list[Run]] = {}
        for run in runs:
            cells.setdefault(label(run, [*keys, *cols]), []).append(run)
        found = next(filter(None, map(apart, cells.values())), None)
        if found is None:
            return keys or ["name"]
        keys.append(found[0])


def label(run: Run, keys: list[str]) -> tuple[str, ...]:
    """Return the values of `keys` in `run`, as a table shows them."""
    return tuple(text(run.value(key)) for key in keys)


def text(value: Any) -> str:
    """Return a setting's value as a table shows it."""
    if isinstance(value, str):
        return value
    return "-" if value is None else json.dumps(value)


def ordered(labels: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return labels in the order a reader expects: numbers by size, also those within words (box_4 before box_14)."""

    def natural(word: str) -> list[tuple[bool, float, str]]:
        parts = re.split(r"(\d+(?:\.\d+)?(?:e-?\d+)?)", word)
        return [(place % 2 == 0, float(part) if place % 2 else 0.0, part) for place, part in enumerate(parts) if part]

    return sorted(labels, key=lambda words: [natural(word) for word in words])


def short(metric: str) -> str:
    """Return a metric's name for column heads: without `who` for the suspect model."""
    return metric.removeprefix("suspect/")


def in_order(metrics: Iterable[str]) -> list[str]:
    """Return the names of metrics without duplicates, in the order of tables."""
    rank = {name: place for place, name in enumerate(ORDER)}
    return sorted(set(columns(metrics)), key=lambda metric: (rank.get(short(metric), len(ORDER)), metric))


def counted(runs: Sequence[Run], used: Sequence[Run]) -> str:
    """Return how many runs a table is based on, and the meaning of ± if it occurs."""
    rest = len(runs) - len(used)
    doubles = f", {rest} more of the same config and seed left out" if rest else ""
    seeds = "; mean ± sample standard deviation over n seeds" if len({run.value("seed") for run in used}) > 1 else ""
    return f"{len(used)} run{'s' * (len(used) != 1)}{doubles}{seeds}"


def failures(runs: Sequence[Run]) -> list[str]:
    """Return a line for each failed run, of many the first."""
    lines = [f"failed: {run.folder}: {run.record.get('error', 'no reason recorded')}" for run in runs
             if run.record["status"] == "failed"]  # fmt: skip
    return few(lines, 5, "and {} more failed runs")


#: the kinds of origin of numbers, and how to read them from a stage's provenance
ORIGINS: dict[str, Callable[[dict[str, Any]], str | None]] = {
    "devices": lambda made: made.get("device"),
    "versions of torch": lambda made: made.get("versions", {}).get("torch"),
    "versions of bdiff": lambda made: in_words(made) if "version" in made else None,
}


def origins(runs: Sequence[Run]) -> list[str]:
    """Return a marked line for each kind of origin, device or version, in which the stages of `runs` differ."""
    lines = []
    for what, of in ORIGINS.items():
        found: dict[str, dict[str, None]] = {}
        for run in runs:
            for stage, made in run.record.get("provenance", {}).items():
                if (origin := of(made)) is not None:
                    found.setdefault(origin, {})[stage] = None
        if len(found) > 1:
            named = [f"{origin} ({', '.join(stages)})" for origin, stages in found.items()]
            lines.append(f"! numbers come from different {what}: {'; '.join(few(named, 4, '{} more'))}")
    return lines


def protocols(runs: Sequence[Run], metrics: Sequence[str]) -> list[str]:
    """Return the protocol that the runs share, and marked lines on differences that make numbers incomparable.

    Of the evaluation that a metric's first part names, such as `audit`, plain facts are said, and only its precision
    has to be the same.
    """
    measures = {"images", *(metric.rpartition("/")[2] for metric in metrics)}
    evaluations = {metric.partition("/")[0] for metric in metrics}
    kept = [flat(run.record.get("protocol", {})) for run in runs if run.done]
    values: dict[str, dict[str, None]] = {}
    for key, value in (fact for facts in kept for fact in facts.items()):
        about, _, what = key.partition(".")
        own = about in evaluations and "." not in what and what not in OF_MODELS
        if own or about in measures | {"precision", "sampler"}:
            values.setdefault(key, {})[text(value)] = None
    marks = {f"! {key.removesuffix('.marks')}: {mark}": None for facts in kept for key in facts
             if key in values and key.endswith(".marks") for mark in facts[key]}  # fmt: skip
    shared: dict[str, list[str]] = {}
    apart = []
    for key, found in values.items():
        about, _, what = key.partition(".")
        if what in ("marks", EXPECTED):
            continue
        if len(found) > 1:
            compares = "precision" in (about, what) or about in measures
            apart += [f"{key} ({', '.join(found)})"] if compares else []
        elif all(key in facts for facts in kept):
            shared.setdefault(about, []).append("=".join(filter(None, [what, *found])))
    lines = ["protocol: " + "; ".join(f"{about} {', '.join(facts)}" for about, facts in shared.items())]
    differing = [f"! protocols differ, and such numbers do not compare: {'; '.join(apart)}"]
    return [*(lines if shared else []), *(differing if apart else []), *marks]
