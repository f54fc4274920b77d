"""Suggestions for unknown words."""

import difflib
from collections.abc import Iterable
from typing import Any


def nearest(word: str, known: Iterable[Any]) -> str:
    """Return "is not known" with the closest known spelling, if one is close, and the choices."""
    names = sorted(map(str, known))
    return f"is not known{did_you_mean(word, names)} (choose from {', '.join(names)})"


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the closest of `names`, or "" if none is close."""
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
