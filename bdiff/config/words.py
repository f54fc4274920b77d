"""Overrides as they are typed, and values written as overrides."""

import json
import re
from pathlib import Path
from typing import Any

from bdiff.config.renamed import today

#: the pieces of an override's value, between commas, brackets and quotes
PIECE = re.compile(r"""\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|(?:\\.|[^,\[\](){}"'\\])+""")

#: a value without structure: no quotes, brackets, lists or interpolations
PLAIN = re.compile(r"""[^"'\[\]{}(),\\$]+""")


def normal(word: str) -> str:
    """Return an override with ~ expanded, and the authors' spelling of an option (BOX_14) replaced by ours (box_14)."""
    key, equals, value = today(word).partition("=")
    if equals and key in ("trigger", "target", "attack", "data"):
        return f"{key}={value.lower()}"
    if not value.isascii() and PLAIN.fullmatch(value):  # Hydra's grammar knows no other letters, but in quotes
        value = quoted(value)
    return f"{key}={PIECE.sub(at_home, value)}" if equals else key


def at_home(piece: re.Match[str]) -> str:
    """Return a piece of an override's value with a leading ~ expanded, which shells do not do after a =."""
    text = re.sub(r"\\(.)", r"\1", piece[0].strip("\"'"))
    if not text.startswith("~"):
        return piece[0]
    try:
        return quoted(Path(text).expanduser())
    except RuntimeError:  # no such home; the request's checks report it
        return piece[0]


def quoted(path: str | Path) -> str:
    """Return a path as a value in Hydra's override grammar, where backslashes escape only before a quote."""
    text = re.sub(r'(\\*)"', r'\1\1\\"', str(path))
    last = len(text) - len(text.rstrip("\\"))
    return '"' + text + "\\" * last + '"'


def literal(value: Any) -> str:
    """Return a value in Hydra's override grammar."""
    match value:
        case str() | Path():
            return quoted(value)
        case dict():
            return "{" + ",".join(f"{name}:{literal(one)}" for name, one in value.items()) + "}"
        case list() | tuple():
            return "[" + ",".join(map(literal, value)) + "]"
    return json.dumps(value)


def unreadable(text: str) -> str:
    """Return what is wrong with an override that Hydra's grammar cannot parse."""
    shape = "quote special characters, as in 'key=\"a,b\"'" if "=" in text[1:] else "write key=value"
    return f"{text!r} cannot be read: {shape}"
