"""A figure of detection scores: clean models and backdoored ones by trigger, a panel for each detection."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bdiff.report.benchmark import Judged, named, took, triggers, values
from bdiff.report.charts import COLOURS, INK, save, wide

CLEAN, BACKDOORED = COLOURS[:2]


def scores(path: Path, detections: Sequence[Judged]) -> None:
    """Write a panel for each detection, a marker for each model, in the format of the file's suffix."""
    names = triggers(detections)
    width = (1.2 + 0.55 * (1 + len(names))) * len(detections)
    figure = Figure(figsize=(width + 0.4, 3.8), layout="constrained", facecolor="white")
    (row,) = figure.subplots(1, len(detections), squeeze=False)
    for axes, one in zip(row, detections, strict=True):
        panel(axes, one, names)
    row[0].set_ylabel("score: the higher, the likelier a backdoor", color=INK)
    if not all(took(run) for one in detections for run in one.backdoored):
        figure.supxlabel("hollow: training did not implant the backdoor", fontsize=9, color=INK)
    save(figure, path, dpi=150)


def panel(axes: Axes, one: Judged, names: Sequence[str]) -> None:
    """Draw one detection's scores, a column for the clean models and for each trigger, and the threshold as a line."""
    columns = [one.clean, *([run for run in one.backdoored if named(run) == name] for name in names)]
    for place, runs in enumerate(columns):
        colour = BACKDOORED if place else CLEAN
        for x, run in zip(place + spread(len(runs)), runs, strict=True):
            full = colour if took(run) or not place else "none"
            axes.plot(x, run.metrics[one.score], "o", color=colour, markerfacecolor=full, markersize=4.5, alpha=0.8)
    if wide(values(one.runs, one.score)):
        axes.set_yscale("log")
    limit = one.detection.threshold
    if limit is not None:
        axes.axhline(limit, color=INK, linestyle="--", linewidth=1)
    limit_text = "no threshold" if limit is None else f"threshold {limit:.3g}"
    axes.set_title(f"{one.method}\n{limit_text}", fontsize=10, color=INK)
    axes.set_xticks(range(len(columns)), ["clean", *names], rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)


def spread(count: int) -> np.ndarray:
    """Return offsets (count,) that keep the markers of a column apart."""
    return np.linspace(-0.22, 0.22, count) if count > 1 else np.zeros(count)
