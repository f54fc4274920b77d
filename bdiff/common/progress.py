"""One progress bar per stage; plain lines if there is no terminal."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger(__name__)


class Screen(Console):
    """A terminal that prints text verbatim; a closed pipe is handled by the command line."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


console = Screen(stderr=True)


class Meter:
    """Counts a stage's progress; the base class shows nothing (for processes other than the first)."""

    def advance(self, count: int = 1, info: str = "") -> None:
        """Record `count` more units, with a short status."""


class Lines(Meter):
    """Logs a line every `every` seconds."""

    def __init__(self, name: str, total: int, done: int, unit: str, every: float):
        self.name, self.total, self.unit, self.every = name, total, unit, every
        self.first, self.done = done, done
        self.start = self.last = time.monotonic()

    def advance(self, count: int = 1, info: str = "") -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last < self.every:
            return
        self.last = now
        rate = (self.done - self.first) / max(now - self.start, 1e-9)
        left = clock((self.total - self.done) / rate) if rate else "?"
        log.info("%s %d/%d %s, %.3g/s, %s left %s", self.name, self.done, self.total, self.unit, rate, left, info)


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss, with any number of hours."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


class Bar(Meter):
    """A rich progress bar."""

    def __init__(self, bar: Progress, name: str, total: int, done: int):
        self.bar, self.first, self.start = bar, done, time.monotonic()
        self.task = bar.add_task(name, total=total, completed=done, rate="", info="")

    def advance(self, count: int = 1, info: str = "") -> None:
        done = self.bar.tasks[0].completed + count - self.first
        rate = f"{done / (time.monotonic() - self.start):.3g}/s"
        self.bar.update(self.task, advance=count, rate=rate, info=info)


@contextmanager
def progress(
    name: str, total: int, done: int = 0, unit: str = "steps", every: float = 10.0, show: bool = True
) -> Iterator[Meter]:
    """Show the progress of `name` towards `total` units, `done` of which an earlier run has completed.

    Of several processes only the first one shows any.
    """
    if not show or int(os.environ.get("RANK", 0)) > 0:
        yield Meter()
    elif not console.is_terminal:
        yield Lines(name, total, done, unit, every)
    else:
        columns = (
            TextColumn("{task.description:>10}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"{unit}, {{task.fields[rate]}}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[info]}", style="dim", markup=False),
        )
        with Progress(*columns, console=console) as bar:
            yield Bar(bar, name, total, done)
