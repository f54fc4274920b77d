"""The book of a project's sweep jobs: every attempt at each, in one small sqlite file beside the outputs.

A job is known by the key of its config (`config_key`), so the same sweep asked for again finds what it did before.
"""

import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bdiff import store

#: what a job's numbers do not depend on
ASIDE = ("hydra", "name", "paths", "published", "runtime", "sweep", "tracker")

RUNNING, DONE, FAILED, INTERRUPTED, LOST = "running", "done", "failed", "interrupted", "lost"

TABLE = """
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY, key TEXT, sweep TEXT, folder TEXT, overrides TEXT, host TEXT, pid INTEGER,
    status TEXT, started REAL, ended REAL, error TEXT
)"""


@dataclass(frozen=True)
class Attempt:
    """One try at a job."""

    key: str
    sweep: str  # the folder of the sweep that made it
    folder: str  # its run folder
    overrides: list[str]
    host: str
    pid: int
    status: str  # running, done, failed, interrupted, or lost: its sweep was gone before it ended
    started: float  # seconds since the epoch
    ended: float | None
    error: str | None

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far."""
        return (self.ended or time.time()) - self.started


def config_key(config: DictConfig) -> str:
    """Return the key of a job: of all its config that numbers depend on, and of the files that it names."""
    parts = {str(name): config[name] for name in config if name not in ASIDE}
    plain: Any = OmegaConf.to_container(OmegaConf.create(parts, parent=config), resolve=True)
    return store.digest({"config": plain, "files": dict(files(plain))})


def files(value: Any) -> Iterator[tuple[str, list[int]]]:
    """Yield every text in `value` that is the path of a file, with its size and time of change."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from files(part)
    elif isinstance(value, str) and "/" in value and (path := Path(value).expanduser()).is_file():
        yield value, [path.stat().st_size, path.stat().st_mtime_ns]


class Ledger:
    """The attempts in the file `path`, which is made when the first one is entered."""

    def __init__(self, path: Path):
        self.path = path

    @contextmanager
    def book(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction; another process's transaction is waited for."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.path, timeout=60)) as book, book:
            book.execute(TABLE)
            yield book

    def start(self, key: str, sweep: Path, folder: Path, overrides: list[str]) -> int:
        """Enter that an attempt begins, and return its number; one of the same job still running counts as lost."""
        entry = (key, str(sweep), str(folder), json.dumps(overrides), socket.gethostname(), os.getpid())
        with self.book() as book:
            book.execute("UPDATE attempts SET status = ? WHERE key = ? AND status = ?", (LOST, key, RUNNING))
            added = book.execute(
                "INSERT INTO attempts (key, sweep, folder, overrides, host, pid, status, started)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (*entry, RUNNING, time.time()),
            )
            assert added.lastrowid is not None
            return added.lastrowid

    def end(self, number: int, status: str, error: str | None = None) -> None:
        """Enter how the attempt `number` ended."""
        with self.book() as book:
            book.execute(
                "UPDATE attempts SET status = ?, ended = ?, error = ? WHERE id = ?",
                (status, time.time(), error, number),
            )

    def attempts(self, keys: Iterable[str] | None = None) -> list[Attempt]:
        """Return the attempts at the jobs `keys`, or at all, oldest first."""
        if not self.path.exists():
            return []
        wanted = None if keys is None else set(keys)
        names = [field.name for field in fields(Attempt)]
        with self.book() as book:
            rows = book.execute(f"SELECT {', '.join(names)} FROM attempts ORDER BY id").fetchall()
        entries = [dict(zip(names, row, strict=True)) for row in rows]
        found = [Attempt(**entry | {"overrides": json.loads(entry["overrides"])}) for entry in entries]
        return [one for one in found if wanted is None or one.key in wanted]

    def latest(self, keys: Iterable[str]) -> dict[str, Attempt]:
        """Return the last attempt at each of the jobs `keys` that has one."""
        return {one.key: one for one in self.attempts(keys)}

    def done(self, key: str) -> bool:
        """Return whether the job was done and its run folder still says so."""
        last = self.latest([key]).get(key)
        if last is None or last.status != DONE:
            return False
        record = Path(last.folder) / "metrics.json"
        return record.exists() and store.read_json(record)["status"] == DONE
