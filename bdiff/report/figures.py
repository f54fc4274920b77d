"""The figures of a run: single images and sheets of samples, trajectories, the training curve and scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from bdiff.report.charts import COLOURS, INK, save
from bdiff.store import artifacts


def shown(pixels: Tensor) -> np.ndarray:
    """Return a uint8 image (C,H,W) as matplotlib expects it: (H,W,3), grey repeated."""
    return pixels.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()


def tiled(pixels: Tensor, columns: int, gap: int = 1) -> np.ndarray:
    """Return uint8 images (B,C,H,W) as one (H',W',3) picture of `columns` columns, with white gaps."""
    count, _, height, width = pixels.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for place, image in enumerate(pixels):
        top, left = place // columns * (height + gap), place % columns * (width + gap)
        sheet[top : top + height, left : left + width] = shown(image)
    return sheet


def overview(
    path: Path, title: str, singles: Mapping[str, Tensor], sheets: Mapping[str, Tensor], columns: int = 8
) -> None:
    """Write one labelled picture: single images (C,H,W) in a column on the left, sheets (B,C,H,W) on the right."""
    figure = Figure(figsize=(3.2 + 4.6 * len(sheets), 5.4), facecolor="white", layout="constrained")
    grid = figure.add_gridspec(len(singles), 1 + 2 * len(sheets))
    for row, (label, image) in enumerate(singles.items()):
        draw(figure.add_subplot(grid[row, 0]), label, shown(image))
    for place, (label, images) in enumerate(sheets.items()):
        box = figure.add_subplot(grid[:, 1 + 2 * place : 3 + 2 * place])
        draw(box, label, tiled(images[: columns * columns], columns))
    figure.suptitle(title, color=INK, fontsize=12)
    save(figure, path)


def beside(path: Path, images: Mapping[str, Tensor]) -> None:
    """Write labelled uint8 images (C,H,W) in a row."""
    size = (2.4 * len(images), 2.7)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    for axes, (label, image) in zip(figure.subplots(1, len(images), squeeze=False)[0], images.items(), strict=True):
        draw(axes, label, shown(image))
    save(figure, path, dpi=160)


def picture(path: Path, pixels: Tensor, side: int = 384) -> None:
    """Write one uint8 image (C,H,W), every pixel enlarged by a whole number to about `side` px."""
    write(path, shown(pixels), side)


def sheet(path: Path, images: Tensor, side: int = 640) -> None:
    """Write the first uint8 images (B,C,H,W) as a square sheet, 8 by 8 (fewer if large), with transparent gaps.

    Every pixel is enlarged by a whole number to about `side` px for the sheet.
    """
    size = images.shape[-1]
    columns = max(2, min(8, 1024 // size))
    gap = max(1, size // 16)
    chosen = images[: columns * columns].cpu()
    opaque = torch.cat([chosen.expand(-1, 3, -1, -1), torch.full_like(chosen[:, :1], 255)], dim=1)
    grid = make_grid(opaque, nrow=columns, padding=gap, pad_value=0)[:, gap:-gap, gap:-gap]
    write(path, grid.permute(1, 2, 0).numpy(), side)


def write(path: Path, pixels: np.ndarray, side: int) -> None:
    """Write (H,W,3 or 4) uint8 pixels as a PNG, enlarged by a whole number to about `side` px."""
    height, width = pixels.shape[:2]
    factor = max(1, round(side / width))
    with artifacts.atomic(path) as scratch:
        Image.fromarray(pixels).resize((width * factor, height * factor), Image.Resampling.NEAREST).save(scratch)


def trajectory(path: Path, t: Sequence[float], rows: Mapping[str, Tensor]) -> None:
    """Write labelled rows of states uint8 (K+1,C,H,W), each below its timestep of `t` (K,); the last is the result."""
    labels = [f"t = {one:g}" for one in t] + ["result"]
    size = (1.25 * len(labels) + 0.4, 1.3 * len(rows) + 0.4)
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    grid = figure.subplots(len(rows), len(labels), squeeze=False)
    for axes, (name, states) in zip(grid, rows.items(), strict=True):
        for box, label, state in zip(axes, labels, states, strict=True):
            box.imshow(shown(state), interpolation="nearest")
            box.set(xticks=[], yticks=[])
            box.set_title(label if box in grid[0] else "", fontsize=11, color=INK)
        axes[0].set_ylabel(name, fontsize=11, color=INK)
    save(figure, path)


def draw(axes: Any, label: str, picture: np.ndarray) -> None:
    """Show a picture under its label, without axes."""
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(label, fontsize=10, color=INK)
    axes.axis("off")


def loss_curve(path: Path, title: str, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the training loss (log scale) and the learning rate over the steps."""
    figure = Figure(figsize=(5.2, 3.4), facecolor="white", layout="constrained")
    axes = figure.subplots()
    steps = [row["step"] for row in history]
    axes.semilogy(steps, [row["loss"] for row in history], color="#1f5fa8", linewidth=1.4)
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.grid(alpha=0.25)
    rate = axes.twinx()
    rate.plot(steps, [row["lr"] for row in history], color="#b5651d", linewidth=1, linestyle="--")
    rate.set_ylabel("learning rate (dashed)", color="#b5651d")
    save(figure, path, dpi=180)


def score_histogram(path: Path, title: str, scores: Mapping[str, Sequence[float]], threshold: float) -> None:
    """Write the histograms of scores by kind, over bins that they share, with the threshold."""
    figure = Figure(figsize=(5.2, 3.4), facecolor="white", layout="constrained")
    axes = figure.subplots()
    edges = np.histogram_bin_edges([score for values in scores.values() for score in values], 50).tolist()
    for (kind, values), colour in zip(scores.items(), COLOURS, strict=False):
        axes.hist(values, edges, label=kind, color=colour, alpha=0.6)
    axes.axvline(threshold, color=INK, linestyle="--", linewidth=1, label="threshold")
    axes.set(xlabel="score", ylabel="starting noises", title=title)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    save(figure, path, dpi=180)
