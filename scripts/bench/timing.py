"""Rates of several contenders, timed in turn so that a machine whose speed drifts treats all of them alike."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ROUNDS = 5

#: does some work and returns its rate, in units a second
Contender = Callable[[], float]


@dataclass(frozen=True)
class Figures:
    """What a benchmark found: what was asked for, and numbers by name."""

    config: dict[str, Any]
    metrics: dict[str, float]
    more: dict[str, Any] = field(default_factory=dict)


def rates(
    contenders: Mapping[str, Contender], over: Sequence[tuple[str, str]], rounds: int = ROUNDS
) -> dict[str, float]:
    """Return each contender's median rate, and ratios, with the least and the largest of each, by name.

    Args:
        contenders: called in turn, `rounds` times each after one that does not count.
        over: pairs (name, other) whose ratio `<name>_over_<other>` is wanted, of each round.
        rounds: of which the median is taken.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for contender in contenders.values():
        contender()
    for _ in range(rounds):
        for name, contender in contenders.items():
            found[name].append(contender())
    for one, other in over:
        found[f"{one}_over_{other}"] = [mine / theirs for mine, theirs in zip(found[one], found[other], strict=True)]
    metrics = {name: statistics.median(values) for name, values in found.items()}
    metrics |= {f"{name}_low": min(values) for name, values in found.items()}
    return metrics | {f"{name}_high": max(values) for name, values in found.items()}
