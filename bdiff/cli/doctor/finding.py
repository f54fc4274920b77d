"""A finding of the doctor, and helpers for several sections."""

import urllib.request
from dataclasses import dataclass

OK, WARN, MISSING = "ok", "warn", "missing"


@dataclass(frozen=True)
class Finding:
    """One line: an item, its state (ok, warn or missing), what was found, and what to do about it."""

    what: str
    state: str
    found: str
    hint: str = ""


def reachable(url: str, seconds: float = 5.0) -> bool:
    """Return whether a server answers at `url`; nothing is downloaded."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
            return True
    except (OSError, ValueError):  # no network, no such name, no such file, no answer in time
        return False


def fetchable(what: str, url: str, found: str, hint: str) -> Finding:
    """Return the finding of a missing item that a run would download from `url`, if a server answers there."""
    if reachable(url):
        return Finding(what, WARN, f"{found}; a run downloads it from {url}")
    return Finding(what, MISSING, f"{found}, and {url} does not answer", hint)
