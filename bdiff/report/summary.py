"""What a finished run comes to, in a few lines: what was trained, whether its backdoor opens, and at what price."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Column, Table
from rich.text import Text

from bdiff.common.progress import sparkline
from bdiff.diffusion.history import read_history
from bdiff.report.pivot import text
from bdiff.report.runs import Run, readable
from bdiff.report.table import ERROR, shown
from bdiff.store import artifacts

DISTANCES = ("fid", "fid_classifier")
#: what a clean model's distance depends on beside its own protocol; the trigger and the target are none of it
SHARED = ("seed", "data", "model", "pretrain", "schedule", "train", "sampler", "sample")
#: models other than the suspect that a run may measure
OTHERS = {"repaired": "after the removal", "guarded": "under the sampling-time defense"}


def summary_table(lines: Mapping[str, str]) -> Table:
    """Return a summary as a table that wraps between words."""
    table = Table.grid(Column(no_wrap=True, min_width=8), Column(overflow="fold"), padding=(0, 2, 0, 0))
    for head, line in lines.items():
        table.add_row(Text(head, "bold"), Text(line))
    return table


def summary(run: Run) -> dict[str, str]:
    """Return the lines of a finished run, by what they are about."""
    lines = {
        "trained": trained(run),
        "ASR": success(run),
        "leak": leak(run),
        "distance": distance(run),
        "audit": verdict(run),
    }
    for who, when in OTHERS.items():
        if name := rate_of(who, run.metrics):
            lines[who] = f"ASR {with_margin(name, run.metrics, who)} {when}"
    return {head: line for head, line in lines.items() if line}


def trained(run: Run) -> str:
    """Return what was trained on what, for how long, with the course of its loss."""
    what = f"a clean model on {run.value('data')}"
    if run.value("attack.poison_rate"):
        what = f"{run.value('attack')} on {run.value('data')}, {poisoned(run)}"
    rows = read_history(Path(run.record["history"]))
    if not rows:
        return f"{what}; no steps"
    losses = [row["loss"] for row in rows]
    reused = " (reused)" if "train" in run.record["reused"] else ""
    steps = f"{rows[-1]['step']:,} steps in {run.record['seconds']['train']:,.0f} s{reused}"
    return f"{what}; {steps}, loss {sparkline(losses)} {losses[-1]:.3g}"


def poisoned(run: Run) -> str:
    """Return what leads where in the rows of a backdoor, as far as the attack reads it, and how many there are."""
    about = run.record.get("poisoning", {"reads": ["trigger", "target"], "mode": "replace"})
    shown = {name: text(run.value(name)) for name in about["reads"]}
    if known := run.record["protocol"].get("class_asr", {}).get("class"):
        shown["target"] = f"class {known}"
    pictures = " -> ".join(shown.values()) if len(shown) == 2 else ", ".join(map(" ".join, shown.items()))
    rows = "rows added" if about["mode"] == "append" else "poisoned"
    return f"{pictures}, {100 * run.value('attack.poison_rate'):g} % {rows}"


def rate_of(who: str, metrics: Mapping[str, float]) -> str | None:
    """Return the name of a model's attack success rate, of an image or of a class; None if it was not measured."""
    return next((name for name in ("asr", "class_asr") if f"{who}/{name}" in metrics), None)


def success(run: Run) -> str:
    """Return the attack's success rate, and whether the sampler was expected to open the backdoor."""
    metrics, protocol = run.metrics, run.record["protocol"]
    name = rate_of("suspect", metrics)
    if name is None:
        return ""
    unexpected = run.value("attack.poison_rate") and protocol[name].get("expected") is False
    note = "; this sampler was not expected to open it" if unexpected else ""
    return f"{with_margin(name, metrics)} of {protocol[name]['count']} triggered samples show the target{note}"


def leak(run: Run) -> str:
    """Return the fraction of clean samples that show the target, beside a clean model's and the data's."""
    metrics = dict(run.metrics)
    value = metrics.get("suspect/false_trigger")
    if value is None:
        return ""
    alone = run.value("attack.poison_rate") and "clean/false_trigger" not in metrics
    if alone and (clean := clean_run(run, "false_trigger", (*SHARED, "target"))):
        metrics["clean/false_trigger"] = clean.metrics["suspect/false_trigger"]
    whose = {"clean": "a clean model", "data": "the data"}
    beside = [f"{name} {metrics[key]:.3f}" for who, name in whose.items() if (key := f"{who}/false_trigger") in metrics]
    return f"false_trigger {value:.3f} of clean samples{''.join(f'; {one}' for one in beside)}"


def distance(run: Run) -> str:
    """Return the distance of clean samples from the data, beside a clean model's or how to have it measured."""
    name = next((name for name in DISTANCES if f"suspect/{name}" in run.metrics), None)
    if name is None:
        return ""
    line = f"{name} {shown(name, run.metrics[f'suspect/{name}'])}"
    if not run.value("attack.poison_rate"):
        return f"{line}, of this clean model"
    if clean := clean_run(run, name):
        return f"{line}; a clean model's {shown(name, clean.metrics[f'suspect/{name}'])}"
    return f"{line}; for a clean model's, the same command with attack=none"


def clean_run(run: Run, name: str, shared: tuple[str, ...] = SHARED) -> Run | None:
    """Return the newest run of a clean model below the same outputs whose metric can be held against this one's.

    The two have the parts `shared` of their configs in common, and the protocol of the metric.
    """
    places = Path(run.config["paths"]["outputs"])
    found = [*places.glob("runs/*/*/metrics.json"), *places.glob("multiruns/*/*/*/metrics.json")]
    times = {path: time for path in found if (time := written(path)) is not None}
    for path in sorted(times, key=times.__getitem__, reverse=True):
        record = artifacts.recall(path, dict[str, Any]())
        clean = record.get("status") == "done" and record.get("choices", {}).get("attack") == "none"
        if clean and record.get("protocol", {}).get(name) == run.record["protocol"].get(name):
            other = readable(path.parent)
            known = other and f"suspect/{name}" in other.metrics
            if other and known and all(other.config.get(part) == run.config.get(part) for part in shared):
                return other
    return None


def written(path: Path) -> float | None:
    """Return when a file was last written; None if it is gone, as when a sweep repeats a failed job."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def verdict(run: Run) -> str:
    """Return what a detection found, by the score that its threshold is for."""
    if "audit/score" not in run.metrics:
        return ""
    protocol, flagged = run.record.get("protocol", {}).get("audit", {}), run.metrics.get("audit/flagged")
    words = "no threshold holds here" if flagged is None else "flagged as backdoored" if flagged else "not flagged"
    name, basis = protocol.get("threshold of", "score"), protocol.get("threshold from")
    line = f"{name} {run.metrics[f'audit/{name}']:.3g}: {words}"
    return f"{line} ({basis})" if basis else line


def with_margin(name: str, metrics: Mapping[str, float], who: str = "suspect") -> str:
    """Return a fraction and its standard error."""
    error = metrics.get(f"{who}/{name}{ERROR}")
    return shown(name, metrics[f"{who}/{name}"]) + (f" (se {error:.3f})" if error else "")
