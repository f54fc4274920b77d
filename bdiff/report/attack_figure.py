"""A figure of samples: a row for each attack, its clean samples first, then its triggered ones by sampler."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from bdiff.report.attacks import Tried
from bdiff.report.charts import COLOURS, INK, save

SIDE = 2  # samples in a row and in a column of a cell


def samples(path: Path, tried: Sequence[Tried]) -> None:
    """Write the figure in the format of the file's suffix, from the sheets that runs leave of their samples.

    Below each cell stand the ASR and whether it was expected, in colour where it was not.
    """
    cells = {(one.attack, one.sampler): one for one in tried}
    attacks, names = (list(dict.fromkeys(part)) for part in zip(*cells, strict=True))
    size = (1.5 * (1 + len(names)) + 0.5, 1.75 * len(attacks) + 0.4)
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    grid = figure.subplots(len(attacks), 1 + len(names), squeeze=False)
    for axes, head in zip(grid[0], [f"clean, {names[0]}", *names], strict=True):
        axes.set_title(head, fontsize=10, color=INK)
    for row, attack in zip(grid, attacks, strict=True):
        row[0].set_ylabel(" ".join(word for word in attack if word != "-"), fontsize=10, color=INK)
        if first := cells.get((attack, names[0])):
            leak = first.leak.text.partition(" ")[0]
            fill(row[0], first, "clean", f"false_trigger {leak}", INK)
        else:
            blank(row[0], "not run")
        for axes, sampler in zip(row[1:], names, strict=True):
            if (attack, sampler) in cells:
                one = cells[attack, sampler]
                fill(axes, one, "triggered", *verdict(one))
            else:
                blank(axes, "not run")
    save(figure, path, dpi=150)


def verdict(one: Tried) -> tuple[str, str]:
    """Return the ASR of a cell and whether it was expected, in words, and their colour."""
    words = {
        True: f"{'opens' if one.opened else 'closed'}, as expected",
        False: f"expected {'to open' if one.expected else 'not to open'}",
        None: "",
    }
    colour = COLOURS[1] if one.right is False else INK
    return f"ASR {one.asr.text.partition(' ')[0]}\n{words[one.right]}", colour


def fill(axes: Axes, one: Tried, kind: str, words: str, colour: str) -> None:
    """Show the first samples of a kind, over what is said of them."""
    sheets = [run.folder / "figures" / f"{kind}.png" for run in one.runs]
    found = next((path for path in sheets if path.exists()), None)
    if found is None:
        blank(axes, words)
        return
    axes.imshow(square(tiles(found, SIDE * SIDE)), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(words, fontsize=8, color=colour)
    axes.spines[:].set_visible(False)


def blank(axes: Axes, words: str) -> None:
    """Leave a cell without pictures."""
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(words, fontsize=8, color=INK)
    axes.spines[:].set_visible(False)


def tiles(path: Path, count: int) -> list[np.ndarray]:
    """Return the first images of a sheet whose gaps are transparent, uint8 (H,W,3)."""
    with Image.open(path, formats=["PNG"]) as picture:
        pixels = np.asarray(picture.convert("RGBA"))
    opaque = pixels[..., 3] > 0
    rows, columns = (spans(opaque.max(axis)) for axis in (1, 0))
    found = [pixels[top:bottom, left:right, :3] for top, bottom in rows for left, right in columns if opaque[top, left]]
    return found[:count]


def spans(filled: np.ndarray) -> list[tuple[int, int]]:
    """Return where each stretch of True in (n,) begins and ends."""
    edges = np.flatnonzero(np.diff(filled, prepend=False, append=False))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def square(images: Sequence[np.ndarray]) -> np.ndarray:
    """Return up to `SIDE` x `SIDE` pictures of one size, uint8 (H,W,3), as one with white gaps."""
    height, width = images[0].shape[:2]
    gap = max(1, height // 16)
    sheet = np.full((SIDE * (height + gap) - gap, SIDE * (width + gap) - gap, 3), 255, np.uint8)
    for place, image in enumerate(images):
        top, left = place // SIDE * (height + gap), place % SIDE * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet
