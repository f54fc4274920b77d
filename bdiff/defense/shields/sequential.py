"""When enough draws have been made: sequential testing for certificates (Horvath et al. 2021, Voracek 2024).

arXiv 2106.06946 and 2406.17830. An image's votes are looked at several times, and each look bounds the probability of
its label at a level of its own. The levels add up to alpha, so by the union bound the best of all lower bounds holds
with a probability of 1 - alpha. Which looks there are, and their levels, is ours.
"""

from collections.abc import Sequence
from math import ceil, log
from typing import NamedTuple

from bdiff.defense.check import LAST  # so large that hardly a radius is lost to Cohen's one look
from bdiff.defense.shields.cohen import lower_bound, probability, upper_bound

RATIO = 1.4  # of the draws at a look to those at the one before
FIRST = 0.06  # and of the look at which the furthest radius can first be certified; the others share the rest


class Look(NamedTuple):
    """A look at the votes."""

    draws: int  # that have been made by then, without those that chose the label
    alpha: float  # its level: probability that its lower bound is wrong, at most


def looks(n: int, alpha: float, sigma: float, radii: Sequence[float]) -> list[Look]:
    """Return the looks at n draws for wanted `radii`, which no others need; none where no radius can be reached.

    The fewest draws that certify a radius are those of which all are hits, so looks there pay best: most images have
    hardly a miss. Between them looks follow each other at a fixed ratio.
    """
    wanted = sorted(p for p in (probability(radius, sigma) for radius in radii) if lower_bound(n, n, LAST * alpha) >= p)
    if not wanted:
        return []
    rest = (1 - LAST - FIRST) * alpha
    first = [fewest(p, rest) for p in wanted[:-1]] + [fewest(wanted[-1], FIRST * alpha)]
    at = {*first}
    draws = float(min(first))
    while (draws := draws * RATIO) < n:
        at.add(round(draws))
    others = [draws for draws in at if draws < n and draws != first[-1]]
    levels = dict.fromkeys(others, rest / max(1, len(others))) | {first[-1]: FIRST * alpha, n: LAST * alpha}
    return [Look(draws, levels[draws]) for draws in sorted(levels) if draws <= n]


def fewest(p: float, alpha: float) -> int:
    """Return how many hits without a miss have a lower bound of at least p at level alpha."""
    return ceil(log(alpha) / log(p))


class Bounds:
    """What is known of the probability of an image's label after some of `count` looks."""

    def __init__(self, n: int, alpha: float, sigma: float, radii: Sequence[float], count: int):
        self.n, self.last = n, LAST * alpha
        self.giving_up = alpha / max(1, count)  # level of upper bounds: certificates rest on lower ones alone
        self.wanted = [probability(radius, sigma) for radius in radii]
        self.lower, self.upper = 0.0, 1.0

    def take(self, hits: int, look: Look) -> None:
        """Take in that so many of the look's draws have the label."""
        self.lower = max(self.lower, lower_bound(hits, look.draws, look.alpha))
        best = lower_bound(hits + self.n - look.draws, self.n, self.last)  # if all draws to come have it too
        self.upper = min(self.upper, upper_bound(hits, look.draws, self.giving_up), best)

    @property
    def decided(self) -> bool:
        """Whether none of the wanted radii lies within the bounds."""
        return all(p <= self.lower or p > self.upper for p in self.wanted)
