"""What a value must be like beside having its type: small rules, for a part to write beside its settings.

A rule takes a value that is not null and returns what is wrong with it, as the end of a line, or None. Its `words` say
in a few words which values it takes, for tables of options.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from omegaconf import ListConfig

from bdiff.common.spelling import nearest


@dataclass(frozen=True)
class Rule:
    """A rule by its function and its words."""

    words: str
    problem: Callable[[Any], str | None]
    types: tuple[type, ...] = ()  # beside the setting's own
    bound: bool = False  # whether the words need a number before them

    def __call__(self, value: Any) -> str | None:
        return self.problem(value)


def within(words: str, fits: Callable[[Any], bool], otherwise: str = "") -> Rule:
    """Return a rule that takes what `fits`, and else answers `otherwise`, or "must be" with the `words`."""
    return Rule(words, lambda value: None if fits(value) else otherwise or f"must be {words}")


def at_least(least: float) -> Rule:
    """Return a rule: a number not below `least`."""
    words = f"at least {least}"
    return Rule(words, lambda value: None if value >= least else f"must be {words}", bound=True)


def above(bound: float) -> Rule:
    """Return a rule: a number above `bound`."""
    words = f"above {bound}"
    return Rule(words, lambda value: None if value > bound else f"must be {words}", bound=True)


def one_of(*names: Any) -> Rule:
    """Return a rule: one of `names`."""
    words = ", ".join(map(str, names))
    return Rule(words, lambda value: None if value in names else nearest(str(value), names))


def some_of(*names: str) -> Rule:
    """Return a rule: a list of some of `names`."""

    def problem(value: Any) -> str | None:
        wrong = [name for name in value if name not in names] if is_list(value) else []
        return f"holds {wrong[0]}, which {nearest(str(wrong[0]), names)}" if wrong else None

    return Rule(f"some of {', '.join(names)}", problem)


def one_of_or_above(bound: float, *names: str) -> Rule:
    """Return a rule: one of `names`, or a number above `bound`."""
    named, number = one_of(*names), above(bound)

    def problem(value: Any) -> str | None:
        if is_number(value):
            return number(value)
        return f"{told}, or set a number" if (told := named(value)) else None

    return Rule(f"{named.words}, or a number {number.words}", problem)


def auto_or(words: str, fits: Callable[[Any], bool]) -> Rule:
    """Return a rule: auto, which the pipeline makes a value of the setting's own type, or what `fits`."""
    told = f"must be {words}"
    return Rule(words, lambda value: None if value == "auto" or fits(value) else told, (str,))


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def is_list(value: Any) -> bool:
    """Return whether a value is a list, a config's included."""
    return isinstance(value, list | ListConfig)


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number from 1 up."""
    return type(value) is int and value >= 1


def falls(value: Any) -> bool:
    """Return whether a value is a list of falling numbers from 1 to 0."""
    numbers = [*value] if is_list(value) else []
    whole = bool(numbers) and all(type(one) in (int, float) for one in numbers)
    return whole and numbers[0] <= 1 and numbers[-1] >= 0 and all(a > b for a, b in pairwise(numbers))


def rises(value: Any) -> str | None:
    """Return how a list is none of numbers from 0 up, each above the one before."""
    if not is_list(value):  # its type says so
        return None
    if not all(map(is_number, value)):
        return "must hold numbers alone"
    fits = value and value[0] >= 0 and all(a < b for a, b in pairwise(value))
    return None if fits else "must be numbers from 0 up that rise, as in [0,0.5]"


def is_file_name(value: Any) -> bool:
    """Return whether a text can be the name of a folder."""
    text = str(value)
    return not (text in ("", ".", "..") or re.search(r"[/\\\0]", text) or len(text.encode(errors="replace")) > 200)


fraction = within("0 to 1", lambda value: 0 <= value <= 1, "is not a share: choose a value from 0 to 1")
open_fraction = within("between 0 and 1", lambda value: 0 < value < 1, "must lie between 0 and 1")
positive_fraction = within("above 0, and at most 1", lambda value: 0 < value <= 1)
below_one = within("at least 0 and below 1", lambda value: 0 <= value < 1)
falling = within("falling, within 1 to 0", falls, "must be falling shares, as in [1.0,0.5]")
rising = Rule("rising, from 0 up", rises)
counts = within(
    "whole numbers from 1 up",
    lambda value: not is_list(value) or (len(value) > 0 and all(map(is_count, value))),
    "must be whole numbers from 1 up, as in [8,12]",
)
auto_or_number = auto_or("a number, auto or null", is_number)
auto_or_count = auto_or("auto or a whole number from 1 up", is_count)
auto_or_flag = auto_or("auto, true or false", lambda value: type(value) is bool)
file_name = within("a file name of at most 200 bytes", is_file_name, "is no file name of at most 200 bytes")
device = within(
    "auto, cpu, cuda or cuda:N",
    lambda value: bool(re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(value))),
    "is not known: choose from auto, cpu, cuda, cuda:N",
)
precision = one_of("auto", "bf16", "fp32")
