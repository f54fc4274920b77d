"""The figure of a shield: triggered images purified by a clean and a backdoored denoiser, with their labels."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bdiff.pipeline.result import Column
from bdiff.report.charts import COLOURS, INK, save
from bdiff.report.figures import shown

RIGHT, WRONG = INK, COLOURS[1]


def shield(path: Path, title: str, truth: Sequence[str], columns: Sequence[Column]) -> None:
    """Write a row per image: its true label, then each column's picture above the label given; errors are marked."""
    size = (1.3 * len(columns) + 0.6, 1.35 * len(truth) + 0.7)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    grid = figure.subplots(len(truth), len(columns), squeeze=False)
    for axes, column in zip(grid.T, columns, strict=True):
        axes[0].set_title(column.name, fontsize=9, color=INK)
        for place, (box, image) in enumerate(zip(axes, column.images, strict=True)):
            box.imshow(shown(image), interpolation="nearest")
            box.set(xticks=[], yticks=[])
            if column.labels:
                given = column.labels[place]
                box.set_xlabel(given, fontsize=9, color=RIGHT if given == truth[place] else WRONG)
    for box, label in zip(grid[:, 0], truth, strict=True):
        box.set_ylabel(f"true: {label}", fontsize=9, color=INK)
    figure.suptitle(title, color=INK, fontsize=11)
    save(figure, path, dpi=150)
