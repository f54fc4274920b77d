"""Whether what is missing may be downloaded: a run may, and a plan of one may not."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from bdiff.common.errors import RequestError

_allowed = ContextVar("downloads", default=True)


class NotHere(RequestError):
    """What is needed is not on this machine, and may not be downloaded now."""


@contextmanager
def forbidden() -> Iterator[None]:
    """Have nothing downloaded meanwhile."""
    token = _allowed.set(False)
    try:
        yield
    finally:
        _allowed.reset(token)


def allowed() -> bool:
    """Return whether anything may be downloaded."""
    return _allowed.get()
