"""The leaderboards as tables: one for each number of a board, in the formats of all tables."""

from collections.abc import Sequence
from pathlib import Path

from bdiff.report.cells import Result
from bdiff.report.sheet import Cell, Sheet, to_csv, to_latex, to_md, to_rich
from bdiff.report.site_boards import BOARDS, Measure
from bdiff.report.site_rows import Matrix, matrix
from bdiff.report.site_values import DAGGER, Value, adapted, peers, value
from bdiff.store import artifacts

#: endings of a board's files, and what writes them
FORMATS = {"txt": to_rich, "md": to_md, "latex": to_latex}


def boards(cells: Sequence[Result]) -> dict[str, Matrix]:
    """Return the boards that `cells` fill, by name."""
    found = {name: matrix(board, cells) for name, board in BOARDS.items()}
    return {name: one for name, one in found.items() if one.rows}


def sheets(board: Matrix) -> list[Sheet]:
    """Return a table for each number that any cell of a board has, the main one first."""
    found = [sheet(board, measure) for measure in board.board.measures]
    return [one for one in found if any(entry.value is not None for row in one.rows for entry in row)]


def sheet(board: Matrix, measure: Measure) -> Sheet:
    """Return one number of a board: a row for each attack and trigger, a column for each defense or sampler."""
    others = peers(board)
    marks = {name: "" if board.board.role == "none" or adapted(board, name) else f" {DAGGER}" for name in board.columns}
    rows = [
        [Cell(" ".join(filter(None, ["clean model" if row.clean else row.attack, row.trigger, row.said])))]
        + [entry(value(measure, row.columns.get(name, []), others)) for name in board.columns]
        for row in board.rows
    ]
    facts = ", ".join(f"{name.replace('_', ' ')} {said}" for name, said in board.shared.items())
    dagger = f"{DAGGER} no attack of the table that opens was adapted to it" if any(marks.values()) else ""
    notes = [measure.caption, facts, dagger, *board.notes]
    heads = [
        f"attack, trigger ({board.board.column} to the right)",
        *(f"{name}{marks[name]}" for name in board.columns),
    ]
    return Sheet(f"{board.board.title}: {measure.name}", heads, rows, [*filter(None, notes)])


def entry(found: Value) -> Cell:
    """Return a cell as a table shows it: its number, or the reason why there is none."""
    return Cell(found.text or found.reason, found.number, found.std, found.count)


def long_form(board: Matrix) -> Sheet:
    """Return all numbers of a board in one table, a row each."""
    rows = [
        [Cell(one.title.partition(": ")[2]), row[0], Cell(head.removesuffix(f" {DAGGER}")), cell]
        for one in sheets(board)
        for row in one.rows
        for head, cell in zip(one.heads[1:], row[1:], strict=True)
    ]
    return Sheet(board.board.title, ["number", "attack, trigger", board.board.column, "value"], rows, [])


def write_tables(out: Path, cells: Sequence[Result]) -> list[Path]:
    """Write the tables of each board that `cells` fill into the folder `out`, and return the files.

    Text, Markdown and LaTeX hold a table for each number; CSV holds all numbers, a line each. overview.png shows the
    main numbers of all attacks on samples.
    """
    from bdiff.report.overview_figure import overview  # matplotlib is slow to import

    out.mkdir(parents=True, exist_ok=True)
    filled = boards(cells)
    files = [picture] if overview(picture := out / "overview.png", filled) else []
    for name, board in filled.items():
        for ending, form in FORMATS.items():
            text = "\n".join(form(one) for one in sheets(board))
            files.append(out / f"{name}.{ending}")
            artifacts.write_text(files[-1], text)
        files.append(out / f"{name}.csv")
        artifacts.write_text(files[-1], to_csv(long_form(board)))
    return files
