"""What a word that is not known could have been meant as."""

import difflib
from collections.abc import Iterable
from typing import Any


def nearest(word: str, known: Iterable[Any]) -> str:
    """Return "is not known" with the nearest spelling, if one is near, and what could have been said instead."""
    names = sorted(map(str, known))
    return f"is not known{did_you_mean(word, names)} (choose from {', '.join(names)})"


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return the question after the nearest of `names`, if one is near."""
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
