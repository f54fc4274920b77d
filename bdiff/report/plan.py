"""Plans of runs for the terminal: at most 80 columns, as a table or, without a terminal, as lines."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from bdiff.common.progress import Screen, clock
from bdiff.pipeline.estimate import Row, total
from bdiff.pipeline.plan import Plan
from bdiff.pipeline.planned import REUSED

HEADS = ("stage", "state", "work", "time", "memory")
ESTIMATES = """Times: operations counted, by the rate of forward passes measured here, in eager
mode; a row of training is 3 passes, a gradient to the input 2. Memory: weights,
optimizer, average and what a pass keeps, without data and what libraries take."""


def show(out: Screen, plan: Plan) -> None:
    """Print the plan of a run."""
    rows = [cells(row) for row in plan.rows]
    print_table(out, f"plan of {plan.name}", HEADS, [*rows, last_line(plan.rows)])
    for line in [*plan.missing, *plan.basis, *ESTIMATES.splitlines()]:
        out.print(line, soft_wrap=True)


def show_sweep(out: Screen, plans: dict[str, Plan]) -> None:
    """Print what the jobs of a sweep would do, by their labels; a stage that several need is the first one's."""
    met: set[str] = set()
    rows, every = [], []
    for label, plan in plans.items():
        own = [row for row in plan.rows if row.key not in met]
        met |= {row.key for row in own}
        every += own
        left = [row for row in own if row.state != REUSED]
        words = f"{len(left)} of {len(plan.rows)} stages"
        rows.append((label, "", words, *last_line(own)[3:]))
    print_table(out, f"plan of {len(plans)} jobs", ("job", "", *HEADS[2:]), [*rows, last_line(every)])
    missing = dict.fromkeys(line for plan in plans.values() for line in plan.missing)
    bases = dict.fromkeys(line for plan in plans.values() for line in plan.basis)
    for line in [*missing, *bases, *ESTIMATES.splitlines()]:
        out.print(line, soft_wrap=True)


def cells(row: Row) -> tuple[str, ...]:
    """Return a stage as a table shows it."""
    if row.state == REUSED:
        return row.name, row.state, "", "", ""
    return row.name, row.state, row.words, duration(row.seconds), size(row.bytes)


def last_line(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the last line: the seconds of all stages, and the memory of the largest."""
    seconds, most, unknown = total(rows)
    return "total", "", "", duration(seconds) + (" and more" if unknown else ""), size(most)


def duration(seconds: float | None) -> str:
    """Return seconds as h:mm:ss, with tenths below ten."""
    if seconds is None:
        return "?"
    return clock(seconds) if seconds >= 10 else f"{seconds:.1f} s" if seconds >= 0.05 else "-"


def size(count: float | None) -> str:
    """Return bytes in GiB or MiB."""
    if not count:
        return "-"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def print_table(out: Screen, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose last row is the total; as aligned lines without a terminal."""
    if not out.is_terminal:
        out.print(title)
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        for row in [heads, *rows]:
            line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            out.print(line.rstrip(), soft_wrap=True)
        return
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for head in heads:
        table.add_column(head, justify="right" if head in HEADS[3:] else "left", no_wrap=True)
    for row in rows[:-1]:
        table.add_row(*row)
    table.add_section()
    table.add_row(*rows[-1])
    out.print(table)
