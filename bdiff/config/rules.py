"""Rules that a value must satisfy beyond its type, for a part to declare with its settings.

A rule takes a non-null value and returns what is wrong with it, as the end of a message, or None. Its `words` are a
short description of the values it accepts, for tables of options.
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
    """A rule: its function and its description."""

    words: str
    problem: Callable[[Any], str | None]
    types: tuple[type, ...] = ()  # accepted in addition to the setting's own
    bound: bool = False  # whether the words follow the name of a number type

    def __call__(self, value: Any) -> str | None:
        return self.problem(value)


def within(
    words: str,
    fits: Callable[[Any], bool],
    otherwise: str = "",
    *,
    bound: bool = False,
    types: tuple[type, ...] = (),
) -> Rule:
    """Return a rule that accepts what `fits`, and else returns `otherwise` or, by default, "must be {words}"."""
    return Rule(words, lambda value: None if fits(value) else otherwise or f"must be {words}", types, bound)


def at_least(least: float) -> Rule:
    """Return a rule: a number not below `least`."""
    return within(f"at least {least}", lambda value: value >= least, bound=True)


def at_most(most: float) -> Rule:
    """Return a rule: a number not above `most`."""
    return within(f"at most {most}", lambda value: value <= most, bound=True)


def above(bound: float) -> Rule:
    """Return a rule: a number above `bound`."""
    return within(f"above {bound}", lambda value: value > bound, bound=True)


def multiple_of(unit: int, plus: int = 0) -> Rule:
    """Return a rule: a multiple of `unit` from 1 times it up, to which `plus` is added."""
    words = f"{', '.join(str(plus + unit * n) for n in (1, 2, 3))}, ..."
    return within(words, lambda value: value > plus and (value - plus) % unit == 0, f"must be one of {words}")


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


def one_or_some_of(*names: str) -> Rule:
    """Return a rule: one of `names`, or a list of some of them."""
    single, several = one_of(*names), some_of(*names)

    def problem(value: Any) -> str | None:
        if not is_list(value):
            return single(value)
        return several(value) if len(value) else "is empty: name at least one"

    return Rule(f"{single.words}, or a list of them", problem)


def one_of_or_above(bound: float, *names: str) -> Rule:
    """Return a rule: one of `names`, or a number above `bound`."""
    named, number = one_of(*names), above(bound)

    def problem(value: Any) -> str | None:
        if is_number(value):
            return number(value)
        return f"{reason}, or set a number" if (reason := named(value)) else None

    return Rule(f"{named.words}, or a number {number.words}", problem)


def auto_or(words: str, fits: Callable[[Any], bool]) -> Rule:
    """Return a rule: auto, which the pipeline resolves to a value of the setting's type, or what `fits`."""
    return within(words, lambda value: value == "auto" or fits(value), types=(str,))


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
    """Return whether a value is a list of decreasing numbers within 1 to 0."""
    numbers = [*value] if is_list(value) else []
    whole = bool(numbers) and all(type(one) in (int, float) for one in numbers)
    return whole and numbers[0] <= 1 and numbers[-1] >= 0 and all(a > b for a, b in pairwise(numbers))


def rises(value: Any) -> str | None:
    """Return what is wrong with a list that should hold increasing numbers of at least 0."""
    if not is_list(value):  # its type says so
        return None
    if not all(map(is_number, value)):
        return "must hold only numbers"
    fits = value and value[0] >= 0 and all(a < b for a, b in pairwise(value))
    return None if fits else "must be increasing numbers of at least 0, as in [0,0.5]"


def is_file_name(value: Any) -> bool:
    """Return whether a string can be the name of a folder."""
    text = str(value)
    return not (text in ("", ".", "..") or re.search(r"[/\\\0]", text) or len(text.encode(errors="replace")) > 200)


fraction = within("0 to 1", lambda value: 0 <= value <= 1, "is not a fraction: choose a value from 0 to 1")
pixel_value = within("-1 to 1", lambda value: -1 <= value <= 1)
open_fraction = within("between 0 and 1", lambda value: 0 < value < 1, "must lie between 0 and 1")
positive_fraction = within("above 0, and at most 1", lambda value: 0 < value <= 1)
eight_bit_fraction = within(
    "1/255 to 1", lambda value: 1 / 255 <= value <= 1, "must be 1/255 to 1: it is kept in 8 bits, which have no smaller"
)
below_one = within("at least 0 and below 1", lambda value: 0 <= value < 1)
falling = within("decreasing, within 1 to 0", falls, "must be decreasing fractions, as in [1.0,0.5]")
span = within(
    "two increasing numbers",
    lambda value: not is_list(value) or (len(value) == 2 and all(map(is_number, value)) and value[0] < value[1]),
    "must be two increasing numbers, as in [-1,0]",
)
rising = Rule("increasing, at least 0", rises)
counts = within(
    "whole numbers from 1 up",
    lambda value: not is_list(value) or (len(value) > 0 and all(map(is_count, value))),
    "must be whole numbers from 1 up, as in [8,12]",
)
auto_or_number = auto_or("a number, auto or null", is_number)
auto_or_count = auto_or("auto or a whole number from 1 up", is_count)
auto_or_flag = auto_or("auto, true or false", lambda value: type(value) is bool)
file_name = within("a file name of at most 200 bytes", is_file_name, "is not a file name of at most 200 bytes")
device = within(
    "auto, cpu, cuda or cuda:N",
    lambda value: bool(re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(value))),
    "is not known: choose from auto, cpu, cuda, cuda:N",
)
precision = one_of("auto", "bf16", "fp32")
