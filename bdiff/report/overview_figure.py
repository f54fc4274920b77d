"""A figure of every attack against every defense: the main number of each leaderboard, side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from bdiff.report.charts import INK, save
from bdiff.report.site_boards import Measure
from bdiff.report.site_rows import Matrix, Row
from bdiff.report.site_values import DAGGER, DEAR, LOSS, Value, adapted, peers, value

#: the boards whose rows are attacks on samples, in the order they are shown
SHOWN = ("detection", "inputs", "removal", "sampling")
SLANTED: Any = {"rotation": 50, "ha": "right", "rotation_mode": "anchor", "fontsize": 8}
SHADES = LinearSegmentedColormap.from_list("good for the defender", ["#ffffff", "#7fb8dc", "#0072b2"])


@dataclass(frozen=True)
class Entry:
    """A cell: its number, what the model pays if that is known, and how good that is for the defender, 0 to 1."""

    text: str
    cost: str = ""
    tone: float = 0.0


def overview(path: Path, boards: dict[str, Matrix]) -> bool:
    """Write the figure of those boards that have rows, in the format of the file's suffix; False if none has.

    A column is a defense, a row an attack with its trigger. Of detections AUROC is shown, of input checks the TPR, of
    removals and sampling defenses the ASR that is left, with the distance of clean samples over that before.
    """
    shown = [boards[name] for name in SHOWN if name in boards]
    calls = naming(shown)
    rows = list(dict.fromkeys(calls(board, row) for board in shown for row in board.rows if not row.clean))
    if not rows:
        return False
    widths = [len(board.columns) for board in shown]
    figure = Figure(figsize=(3.0 + 0.62 * sum(widths), 2.1 + 0.34 * len(rows)), layout="constrained", facecolor="white")
    (panels,) = figure.subplots(1, len(shown), squeeze=False, width_ratios=widths)
    for axes, board in zip(panels, shown, strict=True):
        panel(axes, board, rows, calls)
    panels[0].set_yticks(range(len(rows)), rows)
    figure.supxlabel(
        f"darker: better for the defender; without colour where clean samples are over {DEAR:g} times as far from the "
        "data\nof removals and sampling defenses the second number is that factor"
        f"; {DAGGER} no attack of the table that opens was adapted to it",
        fontsize=8, color=INK,
    )  # fmt: skip
    save(figure, path, dpi=150)
    return True


def naming(boards: Sequence[Matrix]) -> Callable[[Matrix, Row], str]:
    """Return how a row of a board is called, with the sampler's steps where rows of one name differ in them."""
    steps: dict[str, set[str]] = {}
    for board in boards:
        for row in board.rows:
            steps.setdefault(named(row), set()).add(taken(board, row))

    def call(board: Matrix, row: Row) -> str:
        several = len(steps[named(row)] - {"-"}) > 1
        return f"{named(row)} {taken(board, row)} steps" if several else named(row)

    return call


def taken(board: Matrix, row: Row) -> str:
    """Return the sampler's steps of a row, which says them only where rows of its board differ in them."""
    return (board.shared | row.facts).get("steps", "-")


def named(row: Row) -> str:
    """Return an attack with its trigger, and what else but the sampler's steps tells rows apart."""
    facts = [said for name, said in row.facts.items() if name != "steps" and said != "-"]
    return " ".join([row.attack, row.trigger, *facts, *row.more.values()])


def panel(axes: Axes, board: Matrix, rows: Sequence[str], calls: Callable[[Matrix, Row], str]) -> None:
    """Draw the cells of one board, a line for each of `rows`, as `calls` names them."""
    measure = board.board.measures[0]
    loss = next((one for one in board.board.measures if one.name == LOSS), None)
    own: dict[str, list[Row]] = {}
    for row in board.rows:
        own.setdefault(calls(board, row), []).append(row)
    grid = [[entry(measure, loss, board, own.get(row, []), name) for name in board.columns] for row in rows]
    axes.imshow([[one.tone for one in line] for line in grid], cmap=SHADES, vmin=0, vmax=1, aspect="auto")
    for y, line in enumerate(grid):
        for x, one in enumerate(line):
            colour = "white" if one.tone > 0.75 else INK
            axes.text(x, y, one.text, ha="center", va="bottom" if one.cost else "center", fontsize=8, color=colour)
            axes.text(x, y, one.cost, ha="center", va="top", fontsize=6, color=colour)
    axes.set_title("\n".join([*board.board.title.split(), measure.name]), fontsize=9, color=INK)
    marks = ["" if adapted(board, name) else f" {DAGGER}" for name in board.columns]
    heads = [f"{name}{mark}" for name, mark in zip(board.columns, marks, strict=True)]
    axes.set_xticks(range(len(board.columns)), heads, **SLANTED)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def entry(measure: Measure, loss: Measure | None, board: Matrix, rows: Sequence[Row], column: str) -> Entry:
    """Return a cell over all `rows` of one name."""
    cells = [cell for row in rows for cell in row.columns.get(column, [])]
    others = peers(board)
    found = value(measure, cells, others)
    if found.number is None:
        return Entry("–")
    paid = value(loss, cells, others).number if loss else None
    if paid is None:
        return Entry(short(found), "", (found.tone or 0) / 100)
    return Entry(short(found), f"×{paid:.{2 if paid < 10 else 0}f}", 0 if paid > DEAR else (found.tone or 0) / 100)


def short(found: Value) -> str:
    """Return a fraction in two digits."""
    return f"{found.number:.2f}".removeprefix("0")
