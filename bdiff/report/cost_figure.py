"""A figure of costs: ASR over optimizer steps, a panel for each poison rate and a line for each method."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bdiff.report.charts import INK, save, styles
from bdiff.report.cost import Method, in_words

#: of single seeds
HOLLOW = {"linestyle": "none", "markerfacecolor": "none"}


def curves(path: Path, tried: Sequence[Method], goal: float) -> None:
    """Write the figure in the format of the file's suffix: medians over all seeds, and the goal as a line.

    Of a budget that not every seed has, the seeds are shown as hollow marks.
    """
    rates = sorted({one.rate for one in tried})
    names = list(dict.fromkeys(one.name for one in tried))
    looks = {
        name: {"color": colour, "linestyle": dash, "marker": mark, "markersize": 4, "linewidth": 1.6}
        for name, (colour, dash, mark) in zip(names, styles([(" ".join(name),) for name in names]), strict=True)
    }
    figure = Figure(figsize=(max(5, 3.4 * len(rates)), 3.4 + 0.2 * len(names)), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(rates), sharey=True, squeeze=False)[0]
    for axes, rate in zip(panels, rates, strict=True):
        for one in (one for one in tried if one.rate == rate):
            for points, look in ((one.medians(), looks[one.name]), (one.singles(), looks[one.name] | HOLLOW)):
                axes.plot([steps for steps, _ in points], [asr for _, asr in points], **look)
        axes.axhline(goal, color=INK, linewidth=0.8, linestyle=":")
        budgets = sorted({steps for one in tried if one.rate == rate for steps in one.budgets})
        axes.set(xscale="log", ylim=(-0.03, 1.03))
        axes.set_xticks(budgets, [str(steps) for steps in budgets], rotation=60, fontsize=8)
        axes.set_xticks([], minor=True)
        axes.set_title(f"poison rate {rate:g}", fontsize=10, color=INK)
        axes.set_xlabel("optimizer steps", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("ASR", color=INK)
    handles = [panels[0].plot([], [], **look)[0] for look in looks.values()]
    labels = [in_words(name) for name in names]
    if any(one.singles() for one in tried):
        handles.append(panels[0].plot([], [], color=INK, marker="o", markersize=4, **HOLLOW)[0])
        labels.append("single seeds")
    columns = max(1, min(2, round(figure.get_figwidth() * 10) // max(map(len, labels))))  # ten characters an inch
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    save(figure, path, dpi=150)
