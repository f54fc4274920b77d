"""How well scores separate two classes: AUROC, and rates above a threshold. Torch-free, since tables use it too."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from statistics import fmean


def auroc(clean: Sequence[float], attacked: Sequence[float]) -> float | None:
    """Return the probability that an attacked score is above a clean one, a tie counting half; None without a pair.

    This is the area under the ROC curve (Hanley and McNeil 1982), exact: scores are not rounded or rescaled.
    """
    ordered = sorted(clean)
    below = [(bisect_left(ordered, score) + bisect_right(ordered, score)) / 2 for score in attacked]
    return fmean(below) / len(ordered) if ordered and below else None


def threshold_at(clean: Sequence[float], rate: float) -> float:
    """Return the smallest clean score such that at most a fraction `rate`, in [0,1), of them is above it."""
    ordered = sorted(clean)
    return ordered[len(ordered) - 1 - int(rate * len(ordered))]


def rate_above(scores: Sequence[float], threshold: float) -> float:
    """Return the fraction of the scores above the threshold."""
    return fmean(score > threshold for score in scores)
