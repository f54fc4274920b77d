"""A threshold on data sets that it is not from: its rates on each, from the clean models of all others."""

from collections.abc import Iterable, Sequence

from bdiff.metric.conformal import Rates, fewest, left_out
from bdiff.report.benchmark import Judged, cell, values
from bdiff.report.pivot import text
from bdiff.report.runs import Run
from bdiff.report.sheet import Cell, Sheet

HEADS = ["detection", "left out", "from clean", "threshold", "clean", "FPR", "backdoored", "TPR", "AUROC"]


def carried_over(detections: Sequence[Judged], rate: float) -> Sheet:
    """Return a row per detection and data set: how the threshold of all others does on its models."""
    body = [
        [Cell(one.method), Cell(name), *numbers(found)]
        for one in detections
        for name, found in left_out(by_data(one.clean, one.score), by_data(one.backdoored, one.score), rate).items()
    ]
    notes = [
        f"threshold: at a false-positive rate of at most {rate:g}, from the clean models of all other data sets, of "
        f"which it needs {fewest(rate)} (inf: there are fewer); FPR and TPR: the fractions of clean and of backdoored "
        "models of the data set that reach it",
        "the rate is promised only for models like those of the threshold: where the FPR is above it by more than "
        "chance, the threshold does not carry over to that data set",
    ]
    return Sheet(f"a threshold at a false-positive rate of {rate:g}, carried over", HEADS, body, notes)


def numbers(found: Rates) -> list[Cell]:
    """Return the numbers of a row."""
    rates = [(found.clean, found.fpr), (found.backdoored, found.tpr)]
    counted = [part for count, rate in rates for part in (cell(count, "d"), cell(rate, ".3f"))]
    return [cell(found.calibrated, "d"), cell(found.threshold), *counted, cell(found.auroc, ".3f")]


def by_data(runs: Iterable[Run], score: str) -> dict[str, list[float]]:
    """Return the scores of runs by data set, in the order of their names."""
    found: dict[str, list[float]] = {}
    for run in sorted(runs, key=lambda run: text(run.value("data"))):
        found.setdefault(text(run.value("data")), []).extend(values([run], score))
    return found
