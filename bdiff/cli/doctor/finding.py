"""What the doctor says of one thing, and what several of its sections ask."""

import urllib.request
from dataclasses import dataclass

OK, WARN, MISSING = "ok", "warn", "missing"


@dataclass(frozen=True)
class Finding:
    """One line: a thing, its state (ok, warn or missing), what was found, and what to do about it."""

    what: str
    state: str
    found: str
    mend: str = ""


def reachable(url: str, seconds: float = 5.0) -> bool:
    """Return whether something is served at `url`; nothing is fetched."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds):
            return True
    except (OSError, ValueError):  # no network, no such name, no such file, no answer in time
        return False


def fetchable(what: str, url: str, found: str, mend: str) -> Finding:
    """Return a thing that is not here, but that a run would fetch from `url`, if anything answers there."""
    if reachable(url):
        return Finding(what, WARN, f"{found}; a run fetches it from {url}")
    return Finding(what, MISSING, f"{found}, and {url} does not answer", mend)
