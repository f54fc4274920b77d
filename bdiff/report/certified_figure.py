"""The figure of a certification: the fraction of images that are certified correct, over the radius."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bdiff.report.charts import COLOURS, DASHES, INK, save


def certified(
    path: Path,
    title: str,
    radii: Sequence[float],
    curves: Mapping[tuple[str, str], Sequence[float]],
    points: bool,
) -> None:
    """Write certified accuracy over the L2 radius (images in [0,1]): `fractions` at `radii` by model and kind of input.

    Each model has a colour, each kind of input a line style. With `points` each radius has a marker, as values between
    them are unknown.
    """
    mark = "o" if points else None
    models, kinds = (list(dict.fromkeys(names)) for names in zip(*curves, strict=True))
    figure = Figure(figsize=(6.2, 4.4), facecolor="white", layout="constrained")
    axes = figure.subplots()
    for (model, kind), fractions in curves.items():
        colour, dash = COLOURS[models.index(model)], DASHES[kinds.index(kind)]
        axes.plot(radii, fractions, label=f"{model}, {kind}", color=colour, linestyle=dash, linewidth=1.8, marker=mark)
    axes.set(xlabel="L2 radius, images in [0,1]", ylabel="certified accuracy", ylim=(-0.03, 1.03))
    axes.set_xlim(0, (1.05 if points else 1) * max(radii) or 1)
    axes.set_title(title, color=INK, fontsize=12)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))  # under the axes
    save(figure, path, dpi=180)
