"""Charts of a sweep: a metric over a swept setting, as SVG."""

import statistics
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from bdiff.report.pivot import label, ordered, short
from bdiff.report.runs import Run
from bdiff.report.table import shown
from bdiff.store import artifacts

#: colours for colour-blind readers (Okabe and Ito 2008, without their yellow, which is invisible on white)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#444444")
DASHES, MARKS = ("-", "--", ":", "-."), "osD^"
INK = "#222222"


def over(runs: Sequence[Run], metric: str, key: str, others: list[str]) -> bytes:
    """Draw `metric` over the numeric setting `key`, a line for each combination of the settings `others`.

    Runs that do not differ in these settings, such as several seeds, are shown by mean and standard deviation.
    """
    lines: dict[tuple[str, ...], dict[float, list[float]]] = {}
    for run in having(runs, metric):
        lines.setdefault(label(run, others), {}).setdefault(float(run.value(key)), []).append(run.metrics[metric])
    names = ordered(lines)
    looks = dict(zip(names, styles(names), strict=True))
    columns = 1 if any(len(" · ".join(name)) > 28 for name in names) else 2
    figure, axes = blank(3.3 + 0.24 * -(-len(names) // columns) * bool(others))
    for name in names:
        legend = " · ".join(name)
        legend = f" {legend}" if legend.startswith("_") else legend  # a legend skips labels that start with _
        points = sorted(lines[name].items())
        middle, spread = zip(*(summary(values) for _, values in points), strict=True)
        colour, dash, mark = looks[name]
        axes.errorbar(
            [x for x, _ in points], middle, yerr=spread if any(spread) else None, label=legend,
            color=colour, linestyle=dash, marker=mark, linewidth=1.8, markersize=5, capsize=3,
        )  # fmt: skip
    numbers = [x for points in lines.values() for x in points]
    if wide(numbers):
        axes.set_xscale("log")
    axes.set_xlabel(key, color=INK)
    scale(axes, metric, [run.metrics[metric] for run in having(runs, metric)])
    if others:
        figure.legend(loc="outside lower center", ncols=columns, frameon=False, title=" · ".join(others))
    return svg(figure)


def bars(runs: Sequence[Run], metric: str, keys: list[str]) -> bytes:
    """Draw a bar of `metric` for each combination of the settings `keys`, the mean over seeds."""
    found: dict[tuple[str, ...], list[float]] = {}
    for run in having(runs, metric):
        found.setdefault(label(run, keys), []).append(run.metrics[metric])
    names = ordered(found)
    middle, spread = zip(*(summary(found[name]) for name in names), strict=True)
    figure, axes = blank(0.9 + 0.36 * len(names))
    drawn = axes.barh(range(len(names)), middle, xerr=spread if any(spread) else None, color=COLOURS[0], height=0.62)
    axes.bar_label(drawn, [shown(metric, value) for value in middle], padding=4, fontsize=9.5, color=INK)
    axes.set_yticks(range(len(names)), [" · ".join(name) for name in names])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(short(metric), color=INK)
    return svg(figure)


def having(runs: Sequence[Run], metric: str) -> list[Run]:
    """Return the finished runs with a value of `metric`."""
    return [run for run in runs if run.done and metric in run.metrics]


def summary(values: list[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation, 0 for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def wide(values: Sequence[float]) -> bool:
    """Return whether values are better shown on a log scale."""
    return min(values) > 0 and max(values) / min(values) > 50


def styles(names: Sequence[tuple[str, ...]]) -> list[tuple[str, str, str]]:
    """Return a colour, a line style and a marker for each name: colours show its most varied part, styles the rest."""
    parts = range(len(names[0]))
    varied = max(parts, key=lambda part: len({name[part] for name in names}), default=0)
    hues = list(dict.fromkeys(name[varied : varied + 1] for name in names))
    rests = list(dict.fromkeys(name[:varied] + name[varied + 1 :] for name in names))
    looks = []
    for name in names:
        hue = hues.index(name[varied : varied + 1])
        rest = rests.index(name[:varied] + name[varied + 1 :]) + len(rests) * (hue // len(COLOURS))
        looks.append((COLOURS[hue % len(COLOURS)], DASHES[rest % len(DASHES)], MARKS[rest % len(MARKS)]))
    return looks


def scale(axes: Axes, metric: str, values: Sequence[float]) -> None:
    """Label and scale the vertical axis: fractions from 0 to 1, and a log scale for values over powers of ten."""
    axes.set_ylabel(short(metric), color=INK)
    if metric.endswith(("/asr", "/class_asr")):
        axes.set_ylim(-0.03, 1.03)
    elif wide(values):
        axes.set_yscale("log")


def blank(height: float) -> tuple[Figure, Axes]:
    """Return an empty chart, about as wide as a phone so that its text is readable there."""
    figure = Figure(figsize=(4.6, height), layout="constrained", facecolor="white")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def literal(figure: Figure) -> Figure:
    """Return a figure whose texts are shown verbatim: names may contain $, only tick labels are mathematics."""
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.get_text():  # tick labels are set when the figure is drawn
            text.set_parse_math(False)
    return figure


def save(figure: Figure, path: Path, dpi: int = 120) -> None:
    """Write a figure as the file's suffix says; none is pyplot's, whose backend is the user's in a notebook."""
    with artifacts.atomic(path) as scratch:
        literal(figure).savefig(scratch, dpi=dpi)


def svg(figure: Figure) -> bytes:
    """Return the chart as SVG, the same bytes for the same numbers."""
    drawn = BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "bdiff"}):
        literal(figure).savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()
