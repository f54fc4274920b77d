"""Draws the figures of a run's stages, each by its type."""

from collections.abc import Mapping
from functools import singledispatch
from pathlib import Path

from bdiff.pipeline import result
from bdiff.report import figures
from bdiff.report.certified import certified
from bdiff.report.shield_figure import shield
from bdiff.tracker.none import NoTracker


def show(shown: Mapping[str, result.Figure], folder: Path, tracker: NoTracker) -> None:
    """Write figures by name into `folder`, and pass them to the tracker: sheets of plain images as samples."""
    for name, figure in shown.items():
        path = folder / f"{name.replace(' ', '_')}.png"
        draw(figure, path)
        if not isinstance(figure, result.Picture | result.Sheet):
            tracker.picture(name, path)
    if sheets := {name: figure.images for name, figure in shown.items() if isinstance(figure, result.Sheet)}:
        tracker.samples(sheets)


@singledispatch
def draw(figure: result.Figure, path: Path) -> None:
    """Write a figure to a PNG."""
    raise TypeError(f"{type(figure).__name__} is not a figure")


@draw.register
def _(figure: result.Picture, path: Path) -> None:
    figures.picture(path, figure.image)


@draw.register
def _(figure: result.Sheet, path: Path) -> None:
    figures.sheet(path, figure.images)


@draw.register
def _(figure: result.Beside, path: Path) -> None:
    figures.beside(path, figure.images)


@draw.register
def _(figure: result.Overview, path: Path) -> None:
    figures.overview(path, figure.title, figure.singles, figure.sheets)


@draw.register
def _(figure: result.Trajectory, path: Path) -> None:
    figures.trajectory(path, figure.t, figure.rows)


@draw.register
def _(figure: result.LossCurve, path: Path) -> None:
    figures.loss_curve(path, figure.title, figure.history)


@draw.register
def _(figure: result.ScoreHistogram, path: Path) -> None:
    figures.score_histogram(path, figure.title, figure.scores, figure.threshold)


@draw.register
def _(figure: result.CertifiedCurves, path: Path) -> None:
    certified(path, figure.title, figure.radii, figure.curves, figure.points)


@draw.register
def _(figure: result.ShieldRows, path: Path) -> None:
    shield(path, figure.title, figure.truth, figure.columns)
