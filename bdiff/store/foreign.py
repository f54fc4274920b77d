"""Reading a result from elsewhere: it may be of any size, shape and encoding, and each fault is named. Torch-free."""

import json
import math
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bdiff.store.results import problems
from bdiff.store.schema import plain

LARGEST = 1 << 20  # bytes of a file
DEEPEST = 20  # levels of nesting
DIGITS = 300  # of a whole number, so that it has a float


def load(path: Path) -> tuple[Any, list[str]]:
    """Return the JSON in a file and what is wrong with it as a result, a line per fault; None if it is not JSON."""
    try:
        found = parsed(path)
        faults = [*value_faults(found)]
    except (OSError, ValueError, RecursionError) as error:
        return None, [reason(error)]
    return found, list(dict.fromkeys([*faults, *problems(found)]))


def parsed(path: Path) -> Any:
    """Return the JSON in a file. ValueError, RecursionError or OSError if there is none."""
    if not path.is_file():  # a pipe would be waited for
        raise ValueError("it is not a file")
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"it has more than {LARGEST:,} bytes")
    return json.loads(content.decode(), object_pairs_hook=fields, parse_int=whole_number)


def fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. ValueError if a name stands in it twice, since readers differ in which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{plain(twice)} stands in one object twice")
    return found


def whole_number(text: str) -> int | float:
    """Return a whole number, infinity for one that no float can hold."""
    return int(text) if len(text) <= DIGITS else math.inf


def reason(error: Exception) -> str:
    """Return why a file is not read, in a line."""
    match error:
        case RecursionError():
            return f"it is nested more than {DEEPEST} levels deep"
        case UnicodeDecodeError():
            return f"it is not UTF-8 (byte {error.start})"
        case json.JSONDecodeError():
            return f"it is not JSON: {error}"
        case OSError():
            return f"it cannot be read: {error.strerror}"
    return str(error)


def value_faults(value: Any, place: str = "", depth: int = 1) -> Iterator[str]:
    """Yield the values, wherever they stand, that JSON does not have or that cannot be written again.

    RecursionError below DEEPEST levels.
    """
    if depth > DEEPEST:
        raise RecursionError
    if isinstance(value, dict):
        for name, one in value.items():
            inner = f"{place}.{plain(name)}".lstrip(".")
            yield from text_faults(name, f"a name in {place or 'it'}")
            yield from value_faults(one, inner, depth + 1)
    elif isinstance(value, list):
        for number, one in enumerate(value):
            yield from value_faults(one, f"{place}.{number}", depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{place} is {value}, not a finite number"
    elif isinstance(value, str):
        yield from text_faults(value, place)


def text_faults(text: str, place: str) -> Iterator[str]:
    """Yield what is wrong with a text: half a surrogate pair is no character, and others command a terminal."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        yield f"{place} has half a surrogate pair, which is no character"
    if any(unicodedata.category(letter) == "Cc" and letter not in "\n\t" for letter in text):
        yield f"{place} has control characters"
