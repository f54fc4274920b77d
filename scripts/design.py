"""Draw the layers of the package and the steps of a run: python scripts/design.py writes docs/design.svg."""

import sys
from pathlib import Path

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from test_imports import LAYERS  # noqa: E402  # the test's own list, so that there is one

FIGURE = ROOT / "docs" / "design.svg"
#: what a layer is about, from the lowest up
ABOUT = ("base", "mathematics and pictures", "methods and measures", "a run", "many runs, and pages", "commands")
#: the steps of a run: functions of pipeline/main.py in their order, and what each leaves
STEPS = (
    ("jobs", "a checked config, before torch is imported"),
    ("build_experiment", "images, trigger, target, attack, sampler"),
    ("initial_weights", "fresh, downloaded, or a shared clean model"),
    ("train_suspect", "a stock diffusers checkpoint"),
    ("draw_samples", "clean and triggered samples, same noise"),
    ("measure", "suspect/asr, suspect/fid, ..."),
    ("amplify", "amplified/..."),
    ("evaluated", "audit/..., repaired/..., guarded/..., shield/..."),
    ("job", "metrics.json, report.html, wandb"),
)
INK, PAPER, EDGE = "#1b2330", "#eef2f7", "#5b6b80"


def box(axes: Axes, left: float, bottom: float, width: float, title: str, text: str) -> None:
    """Draw a box of height 0.8 with a bold title and a line of text."""
    shape = FancyBboxPatch((left, bottom), width, 0.8, boxstyle="round,pad=0,rounding_size=0.12", fc=PAPER, ec=EDGE)
    axes.add_patch(shape)
    axes.text(left + 0.2, bottom + 0.53, title, weight="bold", color=INK, va="center", fontsize=8.5)
    axes.text(left + 0.2, bottom + 0.22, text, color=INK, va="center", fontsize=7.5)


def column(axes: Axes, left: float, width: float, title: str, rows: list[tuple[str, str]]) -> None:
    """Draw a column of boxes over a height of 10, from the top, with arrows from each to the next."""
    axes.text(left, 10.2, title, color=INK, fontsize=10, weight="bold")
    pitch = (10 - 0.8) / (len(rows) - 1)
    for place, (name, text) in enumerate(rows):
        bottom = 10 - 0.8 - place * pitch
        box(axes, left, bottom, width, name, text)
        if place:
            tip, tail = bottom + 0.82, bottom + pitch - 0.02
            arrow = FancyArrowPatch((left + width / 2, tail), (left + width / 2, tip), arrowstyle="-|>", color=EDGE)
            arrow.set_mutation_scale(8)
            axes.add_patch(arrow)


def draw(path: Path = FIGURE) -> None:
    """Write the figure to `path`; its text stays text."""
    layers = [(about, ", ".join(sorted(name for name in names if not name.startswith("_"))))
              for about, names in zip(ABOUT, LAYERS, strict=True)][::-1]  # fmt: skip
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bdiff", "font.family": "sans-serif"}):
        figure, axes = plt.subplots(figsize=(9, 5.4), facecolor="white")
        column(axes, 0, 6.6, "The layers: imports go down only", layers)
        column(axes, 7.6, 6.2, "A run: pipeline/main.py", list(STEPS))
        axes.set(xlim=(-0.1, 13.9), ylim=(-0.1, 10.6))
        axes.axis("off")
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)


if __name__ == "__main__":
    draw()
