"""Rows and columns of a leaderboard: results of one row differ in their seed and their column alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bdiff.report.cells import Result, last_part
from bdiff.report.pivot import decides, ordered, text
from bdiff.report.runs import flat
from bdiff.report.site_boards import Board

#: what a row says of its results beside attack and trigger, where the rows of a board differ in it
FACTS = ("target", "data", "model", "sampler", "steps", "poison_rate")
FROM = "results"  # where they are from, as a setting of a row

Leaves = dict[str, str]  # settings by dotted key, as readers see them


@dataclass
class Row:
    """An attack with a trigger: what else tells it from others, and its results by column."""

    attack: str
    trigger: str
    facts: dict[str, str]
    more: dict[str, str]  # further settings in which rows of this attack and trigger differ
    columns: dict[str, list[Result]] = field(default_factory=dict)

    @property
    def cells(self) -> list[Result]:
        """All its results."""
        return [cell for members in self.columns.values() for cell in members]

    @property
    def clean(self) -> bool:
        """Whether it is of a model without a backdoor."""
        return self.attack == "none"

    @property
    def adaptive_to(self) -> list[str]:
        """The defenses that its attack knows."""
        return list(dict.fromkeys(name for cell in self.cells for name in cell.place.get("adaptive_to", [])))

    @property
    def said(self) -> str:
        """What it says beside attack and trigger, in words."""
        facts = {name.replace("_", " "): said for name, said in self.facts.items()}
        return " · ".join(f"{name} {said}" for name, said in (facts | self.more).items() if said != "-")

    @property
    def name(self) -> str:
        """The row in words."""
        return " ".join([self.attack, self.trigger, *self.facts.values(), *self.more.values()])


@dataclass(frozen=True)
class Matrix:
    """The rows and the columns of a board."""

    board: Board
    rows: list[Row]
    columns: list[str]
    shared: dict[str, str]  # facts that all rows share
    notes: list[str]

    @property
    def cells(self) -> list[Result]:
        """All results of the board."""
        return [cell for row in self.rows for cell in row.cells]


def matrix(board: Board, cells: Iterable[Result]) -> Matrix:
    """Return the board of those `cells` that belong to it."""
    held = undefended(board, [cell for cell in cells if board.holds(cell)])
    facts = {name: list(dict.fromkeys(said for cell in held if (said := fact(cell, name)) != "-"))
             for name in FACTS if name not in board.own}  # fmt: skip
    varied = [name for name, values in facts.items() if len(values) > 1]
    groups: dict[tuple[str, str], list[Result]] = {}
    for cell in held:
        groups.setdefault((cell.place["attack"], cell.place["trigger"]), []).append(cell)
    rows = [row for names, members in groups.items() for row in split(board, *names, members, varied)]
    places = {name: place for place, (name,) in enumerate(ordered({(row.name,) for row in rows}))}
    rows.sort(key=lambda row: (not row.clean, places[row.name]))
    columns = [name for (name,) in ordered({(name,) for row in rows for name in row.columns})]
    shared = {name: values[0] for name, values in facts.items() if len(values) == 1}
    notes = [] if board.role == "none" else mixed(board, columns, rows)
    return Matrix(board, rows, columns, shared, notes)


def undefended(board: Board, cells: list[Result]) -> list[Result]:
    """Return, for the board of attacks, results without a defense; of models that have no such, one with a defense.

    Only a run that is done stands for those with a defense: a result from elsewhere takes nothing away.
    """
    if board.role != "none":
        return cells

    def model(cell: Result) -> tuple[str, ...]:
        return tuple(fact(cell, name) for name in ("attack", "trigger", *FACTS))

    bare = [cell for cell in cells if cell.place["defense"] == "none"]
    plain = {model(cell) for cell in bare if cell.run.done and cell.file is None}
    guarded = [cell for cell in cells if cell.place["defense"] != "none" and model(cell) not in plain]
    first: dict[str, Result] = {}
    for cell, leaves in zip(guarded, settings(board, guarded, False), strict=True):
        first.setdefault(str((cell.file is None, cell.seed, leaves)), cell)
    return [*bare, *first.values()]


def split(board: Board, attack: str, trigger: str, cells: list[Result], varied: list[str]) -> list[Row]:
    """Return the rows of one attack and trigger, each of results that differ in seed and column alone."""
    found: dict[str, Row] = {}
    for cell, more in zip(cells, labels(cells, settings(board, cells, False)), strict=True):
        facts = {name: fact(cell, name) for name in varied}
        more = {key: value for key, value in more.items() if key not in facts}
        row = found.setdefault(str((facts, more)), Row(attack, trigger, facts, more))
        row.columns.setdefault(column(board, cell), []).append(cell)
    for row in found.values():
        row.columns = {label: own for name, members in row.columns.items()
                       for label, own in apart(board, name, members).items()}  # fmt: skip
    return [*found.values()]


def apart(board: Board, name: str, cells: list[Result]) -> dict[str, list[Result]]:
    """Return the results of one cell by column: several columns if they differ in a defense's own settings."""
    found: dict[str, list[Result]] = {}
    for cell, more in zip(cells, labels(cells, settings(board, cells, True)), strict=True):
        words = (f"{key.rpartition('.')[2]} {value}" for key, value in more.items())
        found.setdefault(", ".join([name, *words]), []).append(cell)
    return found


def mixed(board: Board, columns: list[str], rows: list[Row]) -> list[str]:
    """Return a line for each column whose defense has other settings in some rows than in others."""
    lines = []
    for name in columns:
        cells = [cell for row in rows for cell in row.columns.get(name, [])]
        found: dict[str, dict[str, None]] = {}
        for more in labels(cells, settings(board, cells, True)):
            for key, value in more.items():
                found.setdefault(key, {})[value] = None
        if found:
            said = "; ".join(f"{key} ({', '.join(values)})" for key, values in found.items())
            lines.append(f"{name} has different settings in some rows: {said}")
    return lines


def settings(board: Board, cells: Sequence[Result], column: bool) -> list[Leaves]:
    """Return the settings of each result that belong to its column, or those that belong to its row.

    A precision is the device's choice, unless it was typed for one of the results that are alike in the other settings.
    """
    found = [own_settings(board, cell, column) for cell in cells]
    rest = [str({key: value for key, value in own.items() if not key.endswith(".precision")}) for own in found]
    typed: dict[str, set[str]] = {}
    for cell, alike in zip(cells, rest, strict=True):
        typed.setdefault(alike, set()).update(cell.run.typed)
    return [{key: value for key, value in own.items() if key in typed[alike] or not key.endswith(".precision")}
            for own, alike in zip(found, rest, strict=True)]  # fmt: skip


def own_settings(board: Board, cell: Result, column: bool) -> Leaves:
    """Return the settings of a result that belong to its column, or those that belong to its row, with precisions."""
    found = {
        key: text(value)
        for key, value in flat(cell.run.config).items()
        if decides(key) and below(key, board.own) == column and not below(key, board.idle)
    }
    return found if column else found | {name: fact(cell, name) for name in FACTS if name not in board.own}


def below(key: str, prefixes: Iterable[str]) -> bool:
    """Return whether a dotted key is one of `prefixes`, or below one."""
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def labels(cells: Sequence[Result], leaves: Sequence[Leaves]) -> list[dict[str, str]]:
    """Return, for each result, those of its settings that tell it from all others that differ in any.

    Facts tell first, then whether a result is from elsewhere, then what was typed.
    """
    marks = ["\n".join(f"{key}={value}" for key, value in sorted(own.items())) for own in leaves]
    distinct = {mark: own | {FROM: "from elsewhere" if cell.file else "of these runs"}
                for mark, own, cell in zip(marks, leaves, cells, strict=True)}  # fmt: skip
    typed = dict.fromkeys(key for cell in cells for key in cell.run.typed)
    groups, keys = [[*distinct.values()]], list[str]()
    for key in dict.fromkeys([*FACTS, FROM, *typed, *(key for own in groups[0] for key in own)]):
        if len(groups) == len(distinct):
            break
        parted = [part for group in groups for part in parts(group, key)]
        if len(parted) > len(groups):
            keys.append(key)
            groups = parted
    said = {key: shortest(key, {own.get(key, "-") for own in distinct.values()}) for key in keys}
    return [{key: said[key][distinct[mark].get(key, "-")] for key in keys} for mark in marks]


def shortest(key: str, values: set[str]) -> dict[str, str]:
    """Return what is shown for each value of a setting: of paths, the last parts, unless two are alike."""
    short = {value: last_part(key, value) for value in values}
    return short if len({*short.values()}) == len(short) else {value: value for value in values}


def parts(group: list[Leaves], key: str) -> list[list[Leaves]]:
    """Return a group of settings by their value of `key`."""
    found: dict[str, list[Leaves]] = {}
    for own in group:
        found.setdefault(own.get(key, "-"), []).append(own)
    return [*found.values()]


def column(board: Board, cell: Result) -> str:
    """Return the name of a result's column."""
    if board.role == "none":
        steps = cell.place["steps"]
        return cell.place["sampler"] + (f" {steps}" if steps else "")
    names = [cell.place["defense"], cell.place.get("removal") if board.role == "removal" else None]
    return " + ".join(filter(None, names))


def fact(cell: Result, name: str) -> str:
    """Return a fact of a result's place, as readers see it."""
    return text(cell.place[name])
