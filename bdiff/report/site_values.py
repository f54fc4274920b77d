"""The number of a leaderboard's cell, or the reason why there is none, and how a defense does over all attacks."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bdiff.metric.roc import auroc
from bdiff.report.attacks import ASR, CLASS_ASR, OPENED
from bdiff.report.cells import Result, last_part
from bdiff.report.pivot import text
from bdiff.report.runs import flat
from bdiff.report.site_boards import Measure
from bdiff.report.site_rows import Matrix, Row, below, fact

NO_RUN, CLEAN = "no run", "a clean model"
FLAGGED = "audit/flagged"
SAMPLED = ("suspect", "repaired", "guarded")  # models whose samples are measured
LOSS = "distance ratio"  # the measure of what a model pays for its defense
DEAR = 1.25  # times the distance from the data, above which a defense is not good, whatever it removes
#: what a model has in common with the clean ones that its score is held against: options, and settings below these
ALIKE = ("data", "model", "sampler", "steps", "defense")
BELOW = ("data", "model", "schedule", "sampler", "defense")
APART = ("model.pretrained", "defense.repair", "defense.removal", "defense.precision", "defense.checkpoint")
SECTIONS = {"certified": "certification"}  # of a protocol, where they are named otherwise than what they are on
DAGGER = "†"  # marks a number of a defense that no attack was adapted to


@dataclass(frozen=True)
class Value:
    """A cell's number: the mean over seeds with its sample standard deviation; or the reason why there is none."""

    text: str = ""
    number: float | None = None
    tone: int | None = None  # percent of the deepest colour: how good it is for the board's side
    reason: str = ""
    std: float | None = None  # over seeds
    count: int = 0  # results that it is over


def counted(cells: Sequence[Result]) -> list[Result]:
    """Return the results that a mean is over: the first of each seed that is done, runs before what is elsewhere."""
    found: dict[str, Result] = {}
    for cell in sorted(cells, key=lambda cell: cell.file is not None):
        if cell.run.done:
            found.setdefault(cell.seed if cell.seed != "?" else f"? {cell.file}", cell)
    return [*found.values()]


def peers(matrix: Matrix) -> list[Result]:
    """Return the results of clean models that numbers may be held against."""
    return [cell for row in matrix.rows if row.clean for cells in row.columns.values() for cell in counted(cells)]


def value(measure: Measure, cells: Sequence[Result], others: Sequence[Result]) -> Value:
    """Return a cell's number. `others` are the `peers` of its board."""
    if measure.triggered and cells and all(cell.clean for cell in cells):
        return Value(reason=CLEAN)
    used = counted(cells)
    numbers = [number for cell in used if (number := measure.value(cell.run.metrics)) is not None]
    if measure.ranks and not numbers:
        return ranked(measure, used, others) if used else Value(reason=reason(measure, cells))
    if not numbers:
        return Value(reason=reason(measure, cells))
    middle = statistics.fmean(numbers)
    std = statistics.stdev(numbers) if len(numbers) > 1 else None
    text = measure.shown(middle) + ("" if std is None else f" ± {measure.shown(std)}")
    return Value(text, middle, tone(measure, middle), std=std, count=len(numbers))


def ranked(measure: Measure, cells: Sequence[Result], others: Sequence[Result]) -> Value:
    """Return the AUROC of models' scores against those of the clean models of their kind."""
    if cells[0].clean:
        return Value(reason="the reference of others")
    score = measure.ranks
    scores = [cell.run.metrics[score] for cell in cells if score in cell.run.metrics]
    found = auroc([cell.run.metrics[score] for cell in references(score, cells, others)], scores)
    if found is None:
        return Value(reason=f"no {'clean model was' if scores else 'score'} judged")
    return Value(measure.shown(found), found, tone(measure, found), count=len(scores))


def references(score: str, cells: Sequence[Result], others: Sequence[Result]) -> list[Result]:
    """Return the clean models among `others` that scores of `cells` are held against.

    They have the same data, network, schedule and sampler, as a score may be of samples, and were judged alike.
    """
    own = kind(cells[0])
    return [cell for cell in others if score in cell.run.metrics and kind(cell) == own]


def kind(cell: Result) -> dict[str, str]:
    """Return what results have in common whose scores may be compared."""
    settings = {key: last_part(key, text(value)) for key, value in flat(cell.run.config).items()
                if below(key, BELOW) and not below(key, APART)}  # fmt: skip
    return {name: fact(cell, name) for name in ALIKE} | settings


def tone(measure: Measure, number: float) -> int | None:
    """Return how deep a number's colour is, in percent; None if neither direction is better."""
    if not (measure.fraction and measure.better):
        return None
    good = number if measure.better == "higher" else 1 - number
    return round(100 * min(1.0, max(0.0, good - measure.guess) / (1 - measure.guess)))


def reason(measure: Measure, cells: Sequence[Result]) -> str:
    """Return why a cell has no number: no run, how the run ended, or what its protocol says is absent."""
    if not cells:
        return NO_RUN
    for cell in cells:
        if not cell.run.done:
            error = cell.run.record.get("error")
            return " ".join(f"{cell.run.record['status']}{f': {error}' if error else ''}".split())
    if all(cell.clean for cell in cells) and FLAGGED not in measure.metrics:
        return CLEAN
    absent = [why for cell in cells for name in measure.metrics if (why := lacking(cell, name))]
    return absent[0] if absent else "not measured"


def lacking(cell: Result, metric: str) -> str | None:
    """Return what a protocol says on why a metric is absent, if it does.

    Samples have the same protocol whichever model draws them; everything else has its own.
    """
    protocol: dict[str, Any] = cell.run.record.get("protocol", {})
    who, what = metric.partition("/")[0], metric.rpartition("/")[2]
    own = protocol.get(SECTIONS.get(who, who))
    facts = protocol if who in SAMPLED else own if isinstance(own, dict) else {}
    if metric == FLAGGED:
        return str(facts.get("not flagged", "no threshold"))
    stated = (facts.get(what.partition("@")[0]), own)
    absent = next((one["absent"] for one in stated if isinstance(one, dict) and "absent" in one), None)
    if isinstance(absent, dict):  # by the metric's name
        absent = absent.get(what) or next(iter(absent.values()), None)
    return None if absent is None else str(absent)


def adapted(matrix: Matrix, name: str) -> bool:
    """Return whether the board has a row whose attack was made against the defense of the column `name`, and opened."""
    return any(known in row.adaptive_to for row in matrix.rows for known in defenses(matrix, name)
               if any(cell.run.done and opened(cell) for cell in row.columns.get(name, [])))  # fmt: skip


def opened(cell: Result) -> bool:
    """Return whether the undefended model's backdoor opened; also where that was not measured, as behind a shield."""
    rates = [cell.run.metrics[name] for name in (ASR, CLASS_ASR) if name in cell.run.metrics]
    return not rates or max(rates) >= OPENED


def defenses(matrix: Matrix, name: str) -> list[str]:
    """Return the names of a column's defense, as an attack names it: alone, or with its removal."""
    found = (cell for row in matrix.rows for cell in row.columns.get(name, []))
    return list(dict.fromkeys(word for cell in found for word in (cell.place["defense"], cell.place.get("removal"))
                              if word))  # fmt: skip


@dataclass(frozen=True)
class Rank:
    """A defense over all attacks."""

    name: str
    mean: float
    worst: float
    row: Row  # of the worst
    count: int  # attacks with a number
    adaptive: bool
    cost: float | None  # times the distance from the data, the mean over attacks; None where nothing is paid, or known

    @property
    def dear(self) -> bool:
        """Whether it costs more than what it does can be worth."""
        return self.cost is not None and self.cost > DEAR


Numbers = dict[str, list[tuple[float, Row]]]  # those of each column, with their rows


def ranking(matrix: Matrix, measure: Measure, numbers: Numbers, costs: Numbers) -> list[Rank]:
    """Return the columns from the best mean on, behind them those that are dear; `costs` are the distance ratios."""
    high = measure.better == "higher"
    ranks = []
    for name, pairs in numbers.items():
        worst, row = (min if high else max)(pairs, key=lambda pair: pair[0])
        paid = [one for one, _ in costs.get(name, [])]
        ranks.append(
            Rank(
                name,
                statistics.fmean(one for one, _ in pairs),
                worst,
                row,
                len(pairs),
                adapted(matrix, name),
                statistics.fmean(paid) if paid else None,
            )
        )
    return sorted(ranks, key=lambda rank: (rank.dear, -rank.mean if high else rank.mean))
