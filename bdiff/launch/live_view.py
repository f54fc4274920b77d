"""The terminal output of a sweep: its jobs while they run, and a table of all of them at the end."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from bdiff.common.progress import console
from bdiff.report.pivot import in_order
from bdiff.report.table import shown
from bdiff.store import artifacts
from bdiff.store.ledger import DONE, FAILED, INTERRUPTED, LOST, RUNNING, Ledger

WAITING, BEFORE = "waiting", "done before"
STYLES = {
    DONE: "green",
    BEFORE: "dim green",
    FAILED: "bold red",
    RUNNING: "cyan",
    INTERRUPTED: "yellow",
    WAITING: "dim",
}

ROOM = 20  # lines of the live view
LABEL = 24  # characters that a job's label keeps where the table is narrow
LEAST = 4  # columns of the table at least: the job, its state, its seconds and a metric
LEAK = "asr: triggered samples that show the target; false_trigger: clean samples that do, the backdoor's leak"


@dataclass(frozen=True)
class Row:
    """The current state of one job."""

    label: str
    state: str
    seconds: float | None
    folder: Path | None
    error: str | None

    @property
    def record(self) -> dict[str, Any]:
        """The metrics.json of a finished job."""
        done = self.folder is not None and self.state in (DONE, BEFORE)
        return artifacts.recall(self.folder / "metrics.json", dict[str, Any]()) if self.folder and done else {}

    @property
    def log(self) -> Path | None:
        """The file with the most details of a failure: run.log, or the process's output if there is no log."""
        paths = [self.folder / name for name in ("run.log", "output.log")] if self.folder else []
        return next((path for path in paths if path.exists() and path.stat().st_size), None)


class Board:
    """The jobs of the sweep of this id. `jobs` has a label for each key; others' attempts count only if done."""

    def __init__(self, jobs: dict[str, str], ledger: Ledger, sweep: str):
        self.jobs, self.ledger, self.sweep = jobs, ledger, sweep

    def rows(self) -> list[Row]:
        """Return the current state of every job."""
        latest = self.ledger.latest(self.jobs, self.sweep)
        rows = []
        for key, label in self.jobs.items():
            if (last := latest.get(key)) is None:
                rows.append(Row(label, WAITING, None, None, None))
                continue
            own = RUNNING if last.status == LOST else last.status  # another sweep has begun the same job meanwhile
            state = own if last.sweep == self.sweep else BEFORE
            rows.append(Row(label, state, last.seconds, Path(last.folder), last.error))
        return rows

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show the jobs while the sweep runs: a live table, or a line per change if there is no terminal."""
        if console.quiet_progress:
            yield
            return
        if console.is_terminal:
            with Live(get_renderable=self.view, console=console, refresh_per_second=2, transient=True):
                yield
            return
        over = threading.Event()
        printer = threading.Thread(target=self.print_changes, args=(over,), daemon=True)
        printer.start()
        try:
            yield
        finally:
            over.set()
            printer.join()

    def print_changes(self, over: threading.Event) -> None:
        """Print a line whenever a job changes its state, until `over` is set."""
        before = [WAITING] * len(self.jobs)
        while True:
            last = over.wait(0.5)
            rows = self.rows()
            for number, (row, state) in enumerate(zip(rows, before, strict=True), 1):
                if row.state != state:
                    took = f" after {row.seconds:.0f} s" if row.state in (DONE, FAILED, INTERRUPTED) else ""
                    error = f": {row.error}" if row.error else ""
                    line = f"[{number}/{len(rows)}] {row.label}: {row.state}{took}{error}"
                    console.print(line, soft_wrap=True)
            before = [row.state for row in rows]
            if last:
                return

    def view(self) -> Group:
        """Return the live table: running and recent jobs, with the number of jobs in each state."""
        rows = self.rows()
        counts = Counter(row.state for row in rows)
        head = Text(", ".join(f"{count} {state}" for state, count in counts.items()), style="bold")
        table = Table.grid(*(Column(no_wrap=True, overflow="ellipsis") for _ in range(4)), padding=(0, 2))
        ended = [row for row in rows if row.state not in (RUNNING, WAITING)]
        running = [row for row in rows if row.state == RUNNING]
        waiting = [row for row in rows if row.state == WAITING]
        for row in [*ended[-ROOM // 2 :], *running, *waiting[: max(0, ROOM // 2 - len(running))]]:
            clock = "" if row.seconds is None or row.state == BEFORE else f"{row.seconds:.0f} s"
            style = STYLES.get(row.state, "")
            note = row.error or (last_line(row.log) if row.state == RUNNING else "")
            table.add_row(Text(row.label), Text(row.state, style), clock, Text(note, "dim"))
        return Group(head, table)

    def close(self, terminal: Console) -> bool:
        """Print the table of all jobs and the failures with their logs; return whether every job is done."""
        rows = self.rows()
        terminal.print(jobs_table(rows, terminal.width))
        for row in rows:
            if row.error:
                failure = f"failed: {row.label}: {row.error} (see {row.log or row.folder})"
                terminal.print(failure, soft_wrap=True)
        return all(row.state in (DONE, BEFORE) for row in rows)


def jobs_table(rows: Sequence[Row], width: int) -> Table:
    """Return a table of jobs and metrics for so many characters: a row for each job, or a column where only that fits.

    Where neither does, the first metrics are shown that leave the jobs' labels room.
    """
    records = [row.record for row in rows]
    names = in_order(name for record in records for name in record.get("metrics", {}))
    texts = [[cell(name, record) for name in names] for record in records]
    states = [[row.state, "-" if row.seconds is None else f"{row.seconds:.0f}"] for row in rows]
    heads = ["job", "state", "seconds", *(name.removeprefix("suspect/") for name in names)]
    lines = [[row.label, *state, *line] for row, state, line in zip(rows, states, texts, strict=True)]
    widths = [max(len(line[place]) for line in [heads, *lines]) for place in range(len(heads))]
    number = max(len(word) for line in lines for word in line[1:])
    upright = taken(widths) > width >= taken([max(map(len, heads)), *[number] * len(rows)])
    count = len(heads)
    while not upright and count > LEAST and taken([min(widths[0], LABEL), *widths[1:count]]) > width:
        count -= 1
    notes = [f"and {more} more metrics, in the report"] if (more := len(heads) - count) else []
    notes += [LEAK] if any(head.endswith("false_trigger") for head in heads[:count]) else []
    table = Table(title="jobs", caption="\n".join(notes) or None)
    grid = [heads[:count], *(line[:count] for line in lines)]
    first, *body = [list(line) for line in zip(*grid, strict=True)] if upright else grid
    for place, head in enumerate(first):
        folds = place > 0 if upright else place == 0
        table.add_column(Text(head), justify="right" if place > (0 if upright else 1) else "left", overflow="fold",
                         no_wrap=not folds)  # fmt: skip
    for line in body:
        table.add_row(*(Text(word, STYLES.get(word, "")) for word in line))
    return table


def cell(name: str, record: dict[str, Any]) -> str:
    """Return a metric of a job's record as the table has it."""
    value = record.get("metrics", {}).get(name)
    return "-" if value is None else shown(name, value)


def taken(widths: Sequence[int]) -> int:
    """Return the characters of a line whose columns have these widths."""
    return sum(widths) + 3 * len(widths) + 1


def last_line(path: Path | None) -> str:
    """Return the last line of a run's log."""
    lines = path.read_text(errors="replace").splitlines() if path else []
    return lines[-1].partition(": ")[2] if lines else ""
