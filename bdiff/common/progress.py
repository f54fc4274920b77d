"""One line per stage, with its rate, the time left and a sparkline; plain lines if there is no terminal."""

import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

log = logging.getLogger(__name__)

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK = 10  # characters of a sparkline


class Screen(Console):
    """A terminal that prints text verbatim; a closed pipe is handled by the command line.

    With `quiet_progress` it is to show warnings and results alone. Colors are left out if NO_COLOR is set.
    """

    quiet_progress = False

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


console = Screen(stderr=True)


class Meter:
    """Counts a stage's progress; the base class shows nothing (for processes other than the first)."""

    def advance(self, count: int = 1, info: str = "", trace: Sequence[float] = ()) -> None:
        """Record `count` more units, with a short status and what a sparkline is drawn of."""


class Lines(Meter):
    """Logs a line every `every` seconds."""

    def __init__(self, name: str, total: int, done: int, unit: str, every: float):
        self.name, self.total, self.unit, self.every = name, total, unit, every
        self.first, self.done = done, done
        self.start = self.last = time.monotonic()

    def advance(self, count: int = 1, info: str = "", trace: Sequence[float] = ()) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.last < self.every:
            return
        self.last = now
        rate = (self.done - self.first) / max(now - self.start, 1e-9)
        left = clock((self.total - self.done) / rate) if rate else "?"
        log.info("%s %d/%d %s, %s, %s left %s", self.name, self.done, self.total, self.unit, speed(rate), left, info)


def clock(seconds: float) -> str:
    """Return a duration as h:mm:ss, with any number of hours."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest:02d}"


def speed(rate: float) -> str:
    """Return a rate per second, with three digits or all of its whole ones."""
    return f"{rate:,.0f}/s" if rate >= 1000 else f"{rate:.3g}/s"


def sparkline(values: Sequence[float], width: int = SPARK) -> str:
    """Return the course of positive values as at most `width` blocks, each a mean, on a logarithmic scale."""
    count = min(width, len(values))
    bounds = [len(values) * place // count for place in range(count + 1)] if count else []
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(bounds)]
    if not means or not all(0 < mean < math.inf for mean in means):
        return ""
    logs = [math.log(mean) for mean in means]
    low, span = min(logs), max(logs) - min(logs)
    return "".join(BLOCKS[round((one - low) / span * (len(BLOCKS) - 1)) if span else 0] for one in logs)


class Cut(TextColumn):
    """Text that is cut where a line would be too long: rich shrinks columns that may wrap before those that may not."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class Bar(Meter):
    """A line of a live view."""

    def __init__(self, bar: Progress, name: str, total: int, done: int):
        self.bar, self.first, self.start = bar, done, time.monotonic()
        self.unicode = bar.console.encoding.startswith("utf")
        self.task = bar.add_task(name, total=total, completed=done, rate="", info="")
        self.seen, self.spark = 0, ""

    def advance(self, count: int = 1, info: str = "", trace: Sequence[float] = ()) -> None:
        done = self.bar.tasks[0].completed + count - self.first
        if self.unicode and len(trace) != self.seen:  # drawn again only where there is more to draw
            self.seen, self.spark = len(trace), sparkline(trace) + " "
        rate = speed(done / max(time.monotonic() - self.start, 1e-9))
        self.bar.update(self.task, advance=count, rate=rate, info=f"{self.spark}{info}")


@contextmanager
def progress(
    name: str, total: int, done: int = 0, unit: str = "steps", every: float = 10.0, show: bool = True
) -> Iterator[Meter]:
    """Show the progress of `name` towards `total` units, `done` of which an earlier run has completed.

    Of several processes only the first one shows any.
    """
    if not show or int(os.environ.get("RANK", 0)) > 0:
        yield Meter()
    elif console.quiet_progress or not console.is_terminal:
        yield Lines(name, total, done, unit, every)  # which a quiet run has in its run.log
    else:

        def line(**options: Any) -> Column:
            return Column(no_wrap=True, **options)

        columns = (
            Cut("{task.description}", style="bold", markup=False, table_column=Column(min_width=10)),
            BarColumn(bar_width=10),
            MofNCompleteColumn(table_column=line()),
            TextColumn("{task.fields[rate]}", markup=False, table_column=line(justify="right")),
            TimeRemainingColumn(elapsed_when_finished=True, table_column=line()),
            Cut("{task.fields[info]}", style="dim", markup=False, table_column=Column()),
        )
        with Progress(*columns, console=console) as bar:
            yield Bar(bar, name, total, done)
