"""The rows that a training logs, appended to a file."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bdiff.store import artifacts

log = logging.getLogger(__name__)


class History:
    """The logged rows of one training, appended to a file; a resumed run drops the rows of the steps it repeats."""

    def __init__(self, path: Path, start: int, writes: bool, record: Callable[[dict[str, Any]], None]):
        self.path, self.writes, self.record, self.last = path, writes, record, ""
        rows = [row for row in read_history(path) if row["step"] <= start]
        self.losses = [row["loss"] for row in rows]
        if writes:
            with artifacts.atomic(path) as scratch:
                scratch.write_text("".join(json.dumps(row) + "\n" for row in rows))
            for row in rows:
                record(row)

    def add(self, row: dict[str, Any]) -> None:
        """Append a row."""
        self.last = f"loss {row['loss']:.4f}"
        self.losses.append(row["loss"])
        if self.writes:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            self.record(row)


def read_history(path: Path) -> list[dict[str, Any]]:
    """Return a history's rows, without damaged lines or an incomplete last line of a killed process."""
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    rows = [row_of(line) for line in lines if line.endswith("\n")]
    if None in rows:
        log.warning("%s: %d damaged lines are skipped", path, rows.count(None))
    return [row for row in rows if row is not None]


def row_of(line: str) -> dict[str, Any] | None:
    """Return the row in a line of a history, None if it is damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"step", "loss"} <= {*row} else None
