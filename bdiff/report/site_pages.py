"""What the pages of the site say: of a leaderboard and of each of its cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bdiff.report.cells import Result
from bdiff.report.pivot import in_order, mean, origins, protocols
from bdiff.report.site_boards import Measure
from bdiff.report.site_rows import Matrix, Row
from bdiff.report.site_values import (
    DEAR,
    LOSS,
    Numbers,
    Rank,
    Value,
    adapted,
    counted,
    defenses,
    opened,
    peers,
    ranking,
    references,
    value,
)
from bdiff.store import artifacts

Link = Callable[[Result], str | None]

SHOWN = 3  # seeds that a cell links to; its own page has all


@dataclass(frozen=True)
class Slot:
    """A cell of a leaderboard: its results, its number for each measure, and its page."""

    row: Row
    column: str
    cells: list[Result]
    slug: str
    seeds: list[tuple[str, str | None, str]]  # of the first few: the seed, the page of its result, and a full name
    values: dict[str, Value] = field(default_factory=dict)

    @property
    def board(self) -> str:
        """The name of the leaderboard's page."""
        return self.slug.partition("-")[0]

    @property
    def count(self) -> int:
        """The number of seeds."""
        return len(counted(self.cells))

    @property
    def unfinished(self) -> int:
        """The number of its runs that did not finish."""
        return sum(not cell.run.done for cell in self.cells)

    @property
    def names(self) -> set[str]:
        """The metrics of its results."""
        return {name for cell in self.cells for name in cell.run.metrics}

    @property
    def rest(self) -> int:
        """The number of seeds beyond those with a link."""
        return self.count - len(self.seeds)


@dataclass(frozen=True)
class Table:
    """A leaderboard's table of one number."""

    measure: Measure
    ranks: list[Rank]
    numbers: int  # cells with one


@dataclass(frozen=True)
class BoardPage:
    """A leaderboard's page."""

    matrix: Matrix
    grid: list[list[Slot | None]]  # by row and column; None where there is no run
    tables: list[Table]
    unadapted: list[str]  # columns of defenses that no attack of a row was made against
    filters: dict[str, list[str]]
    notes: list[str]

    @property
    def slots(self) -> list[Slot]:
        """All cells with a run."""
        return [slot for row in self.grid for slot in row if slot]

    @property
    def loss(self) -> Measure | None:
        """The measure of what a model pays, where defenses change it."""
        return next((one for one in self.matrix.board.measures if one.name == LOSS), None)

    def numbers(self, measure: Measure) -> Numbers:
        """The numbers of each column that has any, with their rows.

        Clean models do not count, nor where something is to be removed those whose backdoor had not opened.
        """
        found: Numbers = {}
        for slot in self.slots:
            number = slot.values[measure.name].number
            shut = self.loss and not any(opened(cell) for cell in counted(slot.cells))
            if number is not None and not slot.row.clean and not shut:
                found.setdefault(slot.column, []).append((number, slot.row))
        return found


def board_page(name: str, found: Matrix, link: Link) -> BoardPage:
    """Return the page of the leaderboard `name`."""
    grid = [[slot(name, row, column, row.columns[column], link) if column in row.columns else None
             for column in found.columns] for row in found.rows]  # fmt: skip
    others, main = peers(found), found.board.measures[0]
    for one in (one for row in grid for one in row if one):
        for measure in found.board.measures:
            one.values[measure.name] = value(measure, one.cells, others)
        if LOSS in one.values and (one.values[LOSS].number or 0) > DEAR:  # no success, whatever is gone
            one.values[main.name] = replace(one.values[main.name], tone=0)
    runs = [cell.run for cell in found.cells]
    page = BoardPage(
        found,
        grid,
        tables=[],
        unadapted=[] if found.board.role == "none" else [name for name in found.columns if not adapted(found, name)],
        filters=filters(found.rows),
        notes=[*found.notes, *protocols(runs, main.metrics), *origins(runs)],
    )
    page.tables.extend(table for measure in found.board.measures
                       if (table := tabled(page, measure)).numbers or measure is main)  # fmt: skip
    return page


def tabled(page: BoardPage, measure: Measure) -> Table:
    """Return the table of one number, with its ranking of defenses if one direction is better."""
    numbers = sum(slot.values[measure.name].number is not None for slot in page.slots)
    if not measure.better or page.matrix.board.role == "none":
        return Table(measure, [], numbers)
    costs = page.numbers(page.loss) if page.loss else {}
    return Table(measure, ranking(page.matrix, measure, page.numbers(measure), costs), numbers)


def slot(board: str, row: Row, column: str, cells: list[Result], link: Link) -> Slot:
    """Return a cell of a leaderboard."""
    key = artifacts.digest([board, row.attack, row.trigger, row.facts, row.more, column])
    seeds = [(cell.seed, link(cell), f"seed {cell.seed}, {row.attack} {row.trigger}, {column}")
             for cell in counted(cells)[:SHOWN]]  # fmt: skip
    return Slot(row, column, cells, f"{board}-{key}", seeds)


def filters(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return what rows can be chosen by, where they differ in it, with its values."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, said in ({"attack": row.attack, "trigger": row.trigger} | row.facts).items():
            found.setdefault(name, {})[said] = None
    return {name: [*values] for name, values in found.items() if len(values) > 1}


def cell_page(page: BoardPage, one: Slot, link: Link) -> dict[str, Any]:
    """Return what the page of one cell says."""
    used = counted(one.cells)
    runs = [cell.run for cell in used]
    main = page.tables[0].measure
    names = in_order(name for run in runs for name in run.metrics)
    return {
        "slot": one,
        "conditions": page.matrix.shared | one.row.facts | one.row.more,
        "known": [name for name in one.row.adaptive_to if name in defenses(page.matrix, one.column)],
        "clean": len(references(main.ranks, used, peers(page.matrix))) if used and main.ranks else 0,
        "measures": [(table.measure, one.values[table.measure.name]) for table in page.tables],
        "metrics": [(name, mean(runs, name).text) for name in names],
        "results": [
            (cell, link(cell), any(cell is other for other in used))
            for cell in sorted(one.cells, key=lambda cell: (cell.place["seed"] is None, cell.place["seed"] or 0))
        ],
        "protocol": runs[0].record.get("protocol", {}) if runs else {},
        "stated": used[0].seed if len(used) > 1 else "",
        "marks": [
            line.removeprefix("! ") for line in [*protocols(runs, names), *origins(runs)] if line.startswith("!")
        ],
        "commands": list(dict.fromkeys(command for cell in one.cells if (command := cell.command))),
    }
