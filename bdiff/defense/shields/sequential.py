"""Early stopping of certification by sequential testing (Horvath et al. 2021, Voracek 2024).

arXiv 2106.06946 and 2406.17830. An image's votes are examined at several looks, each of which bounds the probability of
the label at its own level. The levels add up to alpha, so by the union bound the best of all lower bounds holds with
probability 1 - alpha. The choice of looks and levels is ours.
"""

from collections.abc import Sequence
from math import ceil, log
from typing import NamedTuple

from bdiff.defense.check import LAST  # so large that hardly a radius is lost to Cohen's one look
from bdiff.defense.shields.cohen import lower_bound, probability, upper_bound

RATIO = 1.4  # of the draws at a look to those at the previous one
FIRST = 0.06  # and of the look at which the largest radius can first be certified; the others share the rest


class Look(NamedTuple):
    """A look at the votes."""

    draws: int  # draws so far, without those that chose the label
    alpha: float  # its level: maximum probability that its lower bound is wrong


def looks(n: int, alpha: float, sigma: float, radii: Sequence[float]) -> list[Look]:
    """Return the looks at n draws that decide `radii`; empty if no radius can be reached.

    Most images have hardly a miss, so there is a look where all hits first certify the largest radius. For each smaller
    one it is where they would at the level that the other looks share; as each of these has but its part of that, they
    certify it about one look later. Between them looks follow each other at a fixed ratio.
    """
    certifying = sorted(
        p for p in (probability(radius, sigma) for radius in radii) if lower_bound(n, n, LAST * alpha) >= p
    )
    if not certifying:
        return []
    rest = (1 - LAST - FIRST) * alpha
    first = [fewest(p, rest) for p in certifying[:-1]] + [fewest(certifying[-1], FIRST * alpha)]
    at = {*first}
    draws = float(min(first))
    while (draws := draws * RATIO) < n:
        at.add(round(draws))
    others = [draws for draws in at if draws < n and draws != first[-1]]
    levels = dict.fromkeys(others, rest / max(1, len(others))) | {first[-1]: FIRST * alpha, n: LAST * alpha}
    return [Look(draws, levels[draws]) for draws in sorted(levels) if draws <= n]


def fewest(p: float, alpha: float) -> int:
    """Return the number of hits without a miss whose lower bound at level alpha is at least p."""
    return ceil(log(alpha) / log(p))


class Bounds:
    """Bounds of the probability of an image's label after some of `count` looks."""

    def __init__(self, n: int, alpha: float, sigma: float, radii: Sequence[float], count: int):
        self.n, self.last = n, LAST * alpha
        self.giving_up = alpha / max(1, count)  # level of upper bounds: certificates depend only on lower ones
        self.probabilities = [probability(radius, sigma) for radius in radii]
        self.lower, self.upper = 0.0, 1.0

    def take(self, hits: int, look: Look) -> None:
        """Update the bounds with the number of the look's draws that have the label."""
        self.lower = max(self.lower, lower_bound(hits, look.draws, look.alpha))
        best = lower_bound(hits + self.n - look.draws, self.n, self.last)  # if all remaining draws are hits
        self.upper = min(self.upper, upper_bound(hits, look.draws, self.giving_up), best)

    @property
    def decided(self) -> bool:
        """Whether none of the radii lies within the bounds."""
        return all(p <= self.lower or p > self.upper for p in self.probabilities)
