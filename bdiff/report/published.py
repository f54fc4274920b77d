"""Our numbers next to published ones: a line for each row of an experiment, and whether the two are comparable."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bdiff.common.errors import few
from bdiff.pictures.authors import FILES, ORIGINALS
from bdiff.pictures.draw import length, margin
from bdiff.report.pivot import (
    counted,
    decides,
    failures,
    identity,
    in_order,
    latest,
    mean,
    origins,
    protocols,
    short,
    text,
)
from bdiff.report.runs import Run
from bdiff.report.sheet import Cell, Sheet

#: sources of published numbers that are shown without a question mark
SOUND = ("authors' artefact", "abstract")

#: settings that do not affect the measured numbers, or of which a verdict speaks separately
HARMLESS = (
    "sampler.scheduler.variance_type",
    "sample.batch_size",
    "metric.batch_size",
    "metric.also",
    "metric.lpips",
    "metric.fid.weights",
)

#: prefixes of metrics that depend on the classifier; it affects no others
CLASSIFIED = ("shield", "certified", "no_shield", "suspect/class_")

#: triggers and targets that we redrew, as we cannot distribute the authors' pictures
DRAWN = (*ORIGINALS, "shoe")

#: how trigger=image is set for a file, where not as the row's own trigger and with reading=authors: the glasses lie
#: across 0.625 of the image, and TrojDiff's code blends all of a picture, its white too
OWN: dict[str, dict[str, Any]] = {
    ORIGINALS["glasses"]: {"trigger.side": 20, "trigger.place": "centre", "trigger.unit": "image"},
    "TrojDiff/images/hello_kitty.png": {"trigger.side": None, "trigger.reading": "alpha"},
}


@dataclass(frozen=True)
class Row:
    """A row of conf/experiment, its runs, and the settings that a request for it composes to now."""

    name: str
    #: source, where, provenance, pair, sampler, fid_samples, metrics; where need be, the paper's files as `pictures`,
    #: and as `differs` what no setting makes as theirs
    published: dict[str, Any]
    runs: list[Run]
    settings: dict[str, Any]  # empty where there are no runs to compare them with


def beside(rows: Sequence[Row], title: str, metrics: list[str] | None) -> Sheet:
    """Return a table of `rows`, our numbers next to the published ones; runs with other settings get a line each."""
    theirs = {name for row in rows for name in row.published["metrics"]}
    found = {name for row in rows for run in row.runs for name in run.metrics}
    names = metrics or in_order(theirs | {name for name in found if name.startswith("suspect/")})
    sources = list(dict.fromkeys(source(row.published) for row in rows))
    body, used = [], []
    for row in rows:
        for runs in variants(row.runs) or [[]]:
            used += runs
            cells = [Cell(row.name)]
            for name in names:
                cells.append(mean(runs, name) if runs else Cell("not run", n=0))
                cells += [figure(row.published, name)] if name in theirs else []
            body.append([*cells, Cell(f"[{sources.index(source(row.published)) + 1}]"), Cell(verdict(row, runs))])
    heads = [head for name in names for head in (f"{short(name)} ours", f"{short(name)} published")
             if name in theirs or head.endswith("ours")]  # fmt: skip
    notes = [f"[{place}] {one}" for place, one in enumerate(sources, 1)]
    if any(weak(row.published) for row in rows):
        notes.append("? a number that is not from the authors' own work: a weak source")
    if used:
        notes += [counted([run for row in rows for run in row.runs], used), *protocols(used, names)]
        notes += [*origins(used), *failures(used)]
    return Sheet(title, ["row", *heads, "source", "comparable"], body, notes)


def variants(runs: Sequence[Run]) -> list[list[Run]]:
    """Return `runs` grouped by all settings except the seed, without duplicates."""
    found: dict[str, list[Run]] = {}
    for run in latest(runs, []):
        found.setdefault(identity(run), []).append(run)
    return list(found.values())


def source(published: dict[str, Any]) -> str:
    """Return a published row's source in one line."""
    provenance = f" ({'weak: ' * weak(published)}{published['provenance']})" if published["metrics"] else ""
    return ": ".join(filter(None, [published["source"], published["where"]])) + provenance


def weak(published: dict[str, Any]) -> bool:
    """Return whether there are published numbers, but not from the authors' own work."""
    return bool(published["metrics"]) and published["provenance"] not in SOUND


def figure(published: dict[str, Any], metric: str) -> Cell:
    """Return a published number, with a question mark if its source is weak."""
    value = published["metrics"].get(metric)
    if value is None:
        return Cell("-")
    return Cell(f"{value:g}{'?' * weak(published)}", value)


def verdict(row: Row, runs: Sequence[Run]) -> str:
    """Return whether the runs' numbers are comparable with the published ones: yes, for all but FID, or no, and why.

    What the rows themselves do not say comes last.
    """
    theirs = ["published trigger unknown"] if row.published["pair"].startswith("?") else []
    if weak(row.published):
        theirs.append("weak source")
    theirs += row.published.get("differs", [])
    done = [run for run in runs if run.done]
    if not done:
        return ", ".join([runs[0].record["status"] if runs else "not run", *theirs])
    if not row.published["metrics"]:
        return "no number is published"
    theirs += drawings(done[0], row)
    files = original_files(done[0], row)
    theirs += [reason for reason in files.values() if reason]
    apart = departures(done[0], row, {*files})
    unsaid = variance_doubt(row.published, done[0])
    if reasons := theirs + [word for word in apart if not concerns_fid(word)]:
        return f"no: {listed(reasons)}{unsaid}"
    doubts = [word for word in apart if concerns_fid(word)] + fid_doubts(row.published, done[0])
    return (f"all but FID: {listed(doubts)}" if doubts else "yes") + unsaid


def drawings(run: Run, row: Row) -> list[str]:
    """Return, in words, which of the run's pictures are our drawings, in place of the authors'."""
    found = []
    for group in ("trigger", "target"):
        theirs = row.published.get("pictures", {}).get(group)
        names = (name for name in DRAWN if str(run.value(group)).startswith(name))
        found += [f"our {name}, not {theirs}" if theirs else f"our drawing of {name}" for name in names]
    return found


def original(row: Row, group: str) -> str | None:
    """Return the authors' file of a row's trigger or target: what the row names, else what its option stands in for."""
    option = str(row.settings.get(group))
    drawn = next((file for name, file in ORIGINALS.items() if option.startswith(name)), None)
    file: str | None = row.published.get("pictures", {}).get(group, drawn)
    return file


def original_files(run: Run, row: Row) -> dict[str, str | None]:
    """Return which of the row's drawn pictures the run read from a file, each with what is wrong.

    None: it is the authors' own file, read as they do, of the row's size and in its place.
    """
    found: dict[str, str | None] = {}
    for group in ("trigger", "target"):
        theirs = original(row, group)
        if theirs is None or run.value(group) != "image":
            continue
        file = FILES.get(run.record.get("pictures", {}).get(group, ""), "none of the authors' files")
        ours, wanted = run.value(f"{group}.reading"), row.settings | OWN.get(theirs, {})
        reading = wanted.get(f"{group}.reading", "authors")
        found[group] = None
        if file != theirs:
            found[group] = f"{group}.path is {file}, not {theirs}"
        elif ours != reading:
            found[group] = f"{group}.reading is {ours}, not {reading}"
        elif group == "trigger" and spot(run.settings) != spot(wanted):
            found[group] = f"trigger is {spot(run.settings)}, not {spot(wanted)}"
    return found


def spot(settings: dict[str, Any]) -> str:
    """Return how large a trigger is and where it lies, in words."""
    side, size = settings.get("trigger.side"), settings["data.size"]
    if side is None:
        return "the whole image"
    unit = settings.get("trigger.unit") or ("pixel" if settings.get("trigger.reading") == "authors" else "image")
    place = settings.get("trigger.place", "corner")
    gap = f"{margin(size, place, unit)} px from the corner" if place == "corner" else "centred"
    return f"{length(side, size, unit)} px wide, {gap}"


def concerns_fid(word: str) -> bool:
    """Return whether a departure affects only the measurement of FID."""
    return word.startswith(("metric/fid", "metric.fid."))


def departures(run: Run, row: Row, judged: set[str]) -> list[str]:
    """Return how a run's settings differ from its row's, as key=value, groups first: those typed, else all.

    The groups `judged` are left out.
    """
    classified = any(name.startswith(CLASSIFIED) for name in row.published["metrics"])
    harmless = HARMLESS if classified else (*HARMLESS, "classifier")
    apart = [key for key in run.settings if key in row.settings and text(run.settings[key]) != text(row.settings[key])]
    apart = [key for key in apart if decides(key) and not key.startswith(harmless)]
    apart = [key for key in apart if key.partition(".")[0] not in judged]
    apart = [key for key in apart if not (key.endswith(".precision") and row.settings[key] == "auto")]
    keys = [key for key in dict.fromkeys(run.typed) if key in apart] or apart
    return [f"{key}={text(run.settings[key])}" for key in sorted(keys, key=lambda key: "." in key)]


def listed(reasons: list[str]) -> str:
    """Return the first of the reasons in a line, and the number of others."""
    return ", ".join(few(reasons, 4, "{} more"))


def variance_doubt(published: dict[str, Any], run: Run) -> str:
    """Return, as the end of a verdict, that a row sampled with DDPM does not say with which variance.

    The authors' own scheduler has fixed_small, google's checkpoints have fixed_large.
    """
    sampled = any(name.startswith("suspect/") for name in published["metrics"])
    if not sampled or not published["sampler"].startswith("ddpm"):
        return ""
    return f"; DDPM variance unknown (ours {run.value('sampler.scheduler.variance_type')})"


def fid_doubts(published: dict[str, Any], run: Run) -> list[str]:
    """Return why a run's FID is not comparable with the published one, from the run's protocol."""
    if "suspect/fid" not in published["metrics"]:
        return []
    if "suspect/fid" not in run.metrics:
        other = [short(name) for name in run.metrics if name.startswith("suspect/fid_")]
        return [f"{other[0]} is another measure" if other else "ours is missing"]
    theirs, ours = published["fid_samples"], run.record["protocol"]["fid"]
    marks = list(ours["marks"])
    if theirs is None:
        return [*marks, "published sample count unknown"]
    return marks if ours["sample_count"] == theirs else [*marks, f"over {ours['sample_count']} samples, not {theirs}"]
