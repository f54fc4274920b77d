"""The two kinds of errors that end a run, each with its own exit code."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class RequestError(Exception):
    """The request is invalid and nothing was started (exit 2). Holds every problem found, one line each."""

    def __init__(self, *problems: str):
        super().__init__("\n".join(problems))
        self.problems = problems


class RunError(Exception):
    """The run started and failed (exit 1). The message is one line: what happened, and how to fix it."""


@contextmanager
def named(usual: str, here: str) -> Iterator[None]:
    """Have a RequestError name the setting `here` where it would name the `usual` one of the part that raises it."""
    try:
        yield
    except RequestError as error:
        raise type(error)(*(line.replace(usual, here) for line in error.problems)) from error


def few(lines: Sequence[str], most: int, rest: str) -> list[str]:
    """Return the lines, `most` at most: of more, the last is `rest`, as "and {} more", with the number of others."""
    left = len(lines) - most + 1
    return [*lines] if left <= 1 else [*lines[: most - 1], rest.format(left)]


def one_line(error: BaseException) -> str:
    """Return an error's message on one line, without the internals that Hydra and OmegaConf append."""
    text = str(error).partition("Config search path")[0]
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("full_key", "object_type")))
