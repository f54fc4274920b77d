"""How well scores separate two classes: AUROC, and rates above a threshold. Torch-free, since tables use it too."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import floor
from statistics import fmean


def auroc(clean: Sequence[float], attacked: Sequence[float]) -> float | None:
    """Return the probability that an attacked score is above a clean one, a tie counting half; None without a pair.

    This is the area under the ROC curve (Hanley and McNeil 1982), exact: scores are not rounded or rescaled.
    """
    ordered = sorted(clean)
    below = [(bisect_left(ordered, score) + bisect_right(ordered, score)) / 2 for score in attacked]
    return fmean(below) / len(ordered) if ordered and below else None


def passing(count: int, rate: float) -> int:
    """Return how many of `count` clean scores may be above a threshold of a false-positive rate in [0,1).

    With k above it, another clean score is with probability (k + 1) / (count + 1); -1: that is too much for any k.
    """
    return floor(rate * (count + 1) + 1e-9) - 1


def threshold_at(clean: Sequence[float], rate: float) -> float:
    """Return the clean score that as many are above as may be, see `passing`; the largest if none may."""
    return sorted(clean, reverse=True)[max(0, passing(len(clean), rate))]


def rate_above(scores: Sequence[float], threshold: float) -> float:
    """Return the fraction of the scores above the threshold."""
    return fmean(score > threshold for score in scores)
