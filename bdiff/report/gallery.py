"""Draws the figures of a run's stages, each by its type."""

from collections.abc import Callable, Mapping
from pathlib import Path

from bdiff.pipeline import result
from bdiff.report import figures
from bdiff.report.certified_figure import certified
from bdiff.report.shield_figure import shield
from bdiff.tracker.none import NoTracker

#: what draws each type of figure: to a path, from the figure's fields in their order
DRAW: dict[type[result.Figure], Callable[..., None]] = {
    result.Picture: figures.picture,
    result.Sheet: figures.sheet,
    result.Beside: figures.beside,
    result.Overview: figures.overview,
    result.Trajectory: figures.trajectory,
    result.LossCurve: figures.loss_curve,
    result.ScoreHistogram: figures.score_histogram,
    result.CertifiedCurves: certified,
    result.ShieldRows: shield,
}


def show(shown: Mapping[str, result.Figure], folder: Path, tracker: NoTracker) -> None:
    """Write figures by name into `folder`, and pass them to the tracker: sheets of plain images as samples."""
    for name, figure in shown.items():
        path = folder / f"{name.replace(' ', '_')}.png"
        DRAW[type(figure)](path, *vars(figure).values())
        if not isinstance(figure, result.Picture | result.Sheet):
            tracker.picture(name, path)
    if sheets := {name: figure.images for name, figure in shown.items() if isinstance(figure, result.Sheet)}:
        tracker.samples(sheets)
