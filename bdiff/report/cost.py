"""What a backdoor costs: the smallest training budget that reaches an ASR, by attack and poison rate."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bdiff.common.errors import RequestError
from bdiff.report.pivot import (
    MISSING,
    agree,
    failures,
    label,
    latest,
    ordered,
    origins,
    protocols,
    varying,
)
from bdiff.report.runs import Run
from bdiff.report.sheet import Cell, Sheet

STEPS, RATE = "train.steps", "attack.poison_rate"
ASR, REINFORCED = "suspect/asr", "amplified/asr"
USES = {ASR: "as trained", REINFORCED: "reinforced"}  # of the trigger, at sampling

Name = tuple[str, ...]


@dataclass(frozen=True)
class Method:
    """An attack at one poison rate."""

    name: Name  # the settings that tell attacks apart, and how its trigger is used
    rate: float
    curves: dict[int, dict[int, float]]  # seed -> optimizer steps -> ASR

    @property
    def budgets(self) -> list[int]:
        """The optimizer steps that were tried, increasing."""
        return sorted({steps for curve in self.curves.values() for steps in curve})

    def cost(self, goal: float) -> tuple[float, float]:
        """Return bounds of the upper median over seeds of the smallest budget whose ASR is at least `goal`.

        They are equal where the seeds' budgets enclose it; the upper one is infinite where too few seeds have such a
        budget.
        """
        found = [bounds(curve, goal) for curve in self.curves.values()]
        lower, upper = map(statistics.median_high, zip(*found, strict=True))
        return (min(low for low, high in found if high == upper) if upper == math.inf else lower), upper

    def medians(self) -> list[tuple[int, float]]:
        """Return the budgets that every seed has, each with the median ASR."""
        curves = self.curves.values()
        shared = [steps for steps in self.budgets if all(steps in curve for curve in curves)]
        return [(steps, statistics.median(curve[steps] for curve in curves)) for steps in shared]

    def singles(self) -> list[tuple[int, float]]:
        """Return the other budgets, each with the ASR of a seed that has it: medians of other seeds do not compare."""
        shared = {steps for steps, _ in self.medians()}
        return sorted(point for curve in self.curves.values() for point in curve.items() if point[0] not in shared)


def bounds(curve: dict[int, float], goal: float) -> tuple[float, float]:
    """Return bounds of the smallest budget of a seed whose ASR is at least `goal`: 0 or infinity where none was run."""
    least = min((steps for steps, asr in curve.items() if asr >= goal), default=math.inf)
    if least == math.inf:
        return max(curve), least
    return (0 if least == min(curve) else least), least


def in_words(name: Name) -> str:
    """Return the name of a method in a line, without the settings that it lacks."""
    return " ".join(word for word in name if word != "-")


def attacked(runs: Sequence[Run]) -> list[Run]:
    """Return the runs with a poison rate and a budget in steps: clean models have no rate, and cost nothing."""
    return [run for run in runs if run.value(RATE) is not None and run.value(STEPS) is not None]


def methods(runs: Sequence[Run], rows: list[str] | None) -> tuple[list[str], list[Method]]:
    """Return the settings that tell attacks apart, and each attack at each poison rate.

    With `rows` None, the settings are those in which the runs differ. Raises RequestError if runs of one attack, rate
    and budget differ in more than their seed.
    """
    keys = varying(runs, [STEPS, RATE]) if rows is None else rows
    cells: dict[Name, list[Run]] = {}
    found: dict[tuple[Name, float], dict[int, dict[int, float]]] = {}
    for run in latest(runs, [*keys, STEPS, RATE]):
        cells.setdefault(label(run, [*keys, STEPS, RATE]), []).append(run)
        for metric in (metric for metric in USES if run.done and metric in run.metrics):
            name = (*label(run, keys), USES[metric])
            curve = found.setdefault((name, float(run.value(RATE))), {}).setdefault(int(run.value("seed")), {})
            curve[int(run.value(STEPS))] = run.metrics[metric]
    for members in cells.values():
        agree(members)
    names = ordered({name for name, _ in found})
    rates = sorted({rate for _, rate in found})
    return keys, [Method(name, rate, found[name, rate]) for name in names for rate in rates if (name, rate) in found]


def base_of(tried: Sequence[Method], words: list[str] | None) -> Name | None:
    """Return the name of the method whose first settings are `words`, with its trigger as trained; None without words.

    Raises RequestError unless there is exactly one.
    """
    if words is None:
        return None
    names = [name for name in dict.fromkeys(one.name for one in tried) if name[-1] == USES[ASR]]
    found = [name for name in names if list(name[: len(words)]) == words]
    if len(found) != 1:
        known = "; ".join(",".join(name[:-1]) for name in names)
        raise RequestError(f"--base {','.join(words)} names {len(found)} attacks of these runs, which are {known}")
    return found[0]


def cost_sheet(keys: list[str], tried: Sequence[Method], goal: float, base: Name | None) -> Sheet:
    """Return a row for each method, and for each poison rate its cost, and how many times as much `base`'s is."""
    cells = {(one.name, one.rate): one for one in tried}
    names, rates = list(dict.fromkeys(one.name for one in tried)), sorted({one.rate for one in tried})
    parts = ["", " times"] if base else [""]
    body = [
        [
            *map(Cell, name),
            *(
                part
                for rate in rates
                for part in (steps(cells.get((name, rate)), goal), times(cells, name, base, rate, goal))[: len(parts)]
            ),
        ]
        for name in names
    ]
    seeds = sorted({len(one.curves) for one in tried})
    budgets = sorted({budget for one in tried for budget in one.budgets})
    notes = [
        f"the smallest number of optimizer steps with an ASR of at least {goal}, the upper median of "
        f"{' to '.join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))} seeds; > and <= are bounds: not even the "
        "largest budget of a seed has it, or the smallest has",
        f"budgets: {', '.join(map(str, budgets))}; not every method was run with each",
        *([f"times: steps of {in_words(base)} at the same rate, over those of the method"] if base else []),
    ]
    heads = [f"rate {rate:g}{part}" for rate in rates for part in parts]
    return Sheet(f"optimizer steps to an ASR of {goal}", [*keys, "trigger", *heads], body, notes)


def steps(one: Method | None, goal: float) -> Cell:
    """Return the cost of a method; only a bound of it if its budgets do not enclose it."""
    if one is None:
        return Cell(MISSING)
    lower, upper = one.cost(goal)
    if upper == math.inf:
        return Cell(f"> {lower:.0f}")
    return Cell(f"{upper:.0f}", upper) if lower == upper else Cell(f"<= {upper:.0f}")


def times(cells: dict[tuple[Name, float], Method], name: Name, base: Name | None, rate: float, goal: float) -> Cell:
    """Return how many times the cost of a method that of `base` is; only a bound of it if either is one."""
    if base is None or name == base or (name, rate) not in cells or (base, rate) not in cells:
        return Cell("-")
    most, least = steps(cells[base, rate], goal), steps(cells[name, rate], goal)
    if "> " in least.text or "<" in most.text:
        return Cell("-")
    ratio = float(most.text.split()[-1]) / float(least.text.split()[-1])
    bound = None in (most.value, least.value)
    return Cell(f"> {ratio:.1f}") if bound else Cell(f"{ratio:.1f}", ratio)


def facts(runs: Sequence[Run]) -> list[str]:
    """Return what a table of costs is based on."""
    metrics = [metric for metric in USES if any(metric in run.metrics for run in runs)]
    more = ["steps that learn or reinforce a trigger are not counted"] * any(map(extra, runs))
    return [f"{len(runs)} runs", *more, *protocols(runs, metrics), *origins(runs), *failures(runs)]


def extra(run: Run) -> bool:
    """Return whether a run has steps besides those of its training: its trigger is learned before, or reinforced."""
    return bool(run.value("attack.learn")) or REINFORCED in run.metrics
