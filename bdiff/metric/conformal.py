"""Thresholds with a stated false-positive rate, from scores of clean models: split conformal prediction. Torch-free.

Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World (2005), chapter 2. If the score of a clean
model that is judged and those of the n clean models at hand are exchangeable (any order of them is equally likely), it
is flagged with a probability of at most the rate, whatever the scores' distribution. No number of models makes this
hold for a model of another kind than theirs; `left_out` shows how far it carries over.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bdiff.metric.roc import auroc, passing


def fewest(rate: float) -> int:
    """Return the least number of clean models for a finite threshold at a false-positive rate in (0,1)."""
    return math.ceil(1 / rate - 1e-9) - 1


def threshold(clean: Sequence[float], rate: float) -> float:
    """Return the smallest score whose p value is at most `rate`, in (0,1); inf if the clean scores are too few for any.

    The p value is the fraction, of the clean models and the one that is judged, that score at least as high. The
    threshold lies just above a clean score: equal scores have equal p values.
    """
    above = passing(len(clean), rate)
    return math.nextafter(sorted(clean, reverse=True)[above], math.inf) if above >= 0 else math.inf


@dataclass(frozen=True)
class Rates:
    """The fractions of clean and of backdoored models that a threshold flags; None where there are none."""

    threshold: float  # inf: too few clean models
    calibrated: int  # clean models that it is from
    clean: int  # that it is tried on
    backdoored: int
    fpr: float | None
    tpr: float | None
    auroc: float | None


def rates(calibration: Sequence[float], clean: Sequence[float], backdoored: Sequence[float], rate: float) -> Rates:
    """Return the rates on other models' scores of the threshold at `rate` from the clean scores of `calibration`."""
    limit = threshold(calibration, rate)
    ranked = auroc(clean, backdoored)
    numbers = len(calibration), len(clean), len(backdoored)
    return Rates(limit, *numbers, reached(clean, limit), reached(backdoored, limit), ranked)


def reached(scores: Sequence[float], limit: float) -> float | None:
    """Return the fraction of scores that reach a limit, None without scores."""
    return sum(score >= limit for score in scores) / len(scores) if scores else None


def left_out(
    clean: Mapping[str, Sequence[float]], backdoored: Mapping[str, Sequence[float]], rate: float
) -> dict[str, Rates]:
    """Return, for each data set, the rates on its models of the threshold from the clean models of all others.

    Scores are given by data set; a data set may have models of one kind alone.
    """
    found = {}
    for name in dict.fromkeys([*clean, *backdoored]):
        others = [score for other, scores in clean.items() if other != name for score in scores]
        found[name] = rates(others, clean.get(name, []), backdoored.get(name, []), rate)
    return found
