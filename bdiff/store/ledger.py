"""The ledger of a project's sweep jobs: every attempt at each, in one small sqlite file beside the outputs.

A job is identified by the key of its config (`config_key`), so that a repeated sweep finds the jobs it has done.
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from bdiff.common.errors import RequestError
from bdiff.common.places import PLACES
from bdiff.common.versions import VERSION
from bdiff.config.keys import targets
from bdiff.config.parts import describe
from bdiff.store import artifacts

#: what a job's numbers do not depend on; `published` is kept, since each row of an experiment is a job of its own
ASIDE = ("hydra", "name", "paths", "runtime", "sweep", "tracker")

RUNNING, DONE, FAILED, INTERRUPTED, LOST = "running", "done", "failed", "interrupted", "lost"

TABLE = """
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY, key TEXT, sweep TEXT, folder TEXT, overrides TEXT, status TEXT,
    started REAL, ended REAL, error TEXT
)"""


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job."""

    key: str
    sweep: str  # the run of the sweep that started it
    folder: str  # its run folder
    overrides: list[str]
    status: str  # running, done, failed, interrupted, or lost: its sweep ended before it
    started: float  # seconds since the epoch
    ended: float | None
    error: str | None

    @property
    def seconds(self) -> float:
        """Its duration, so far if it is still running."""
        return (self.ended or time.time()) - self.started


def config_key(config: DictConfig) -> str:
    """Return a job's key: over the config its numbers depend on, the files it names, and the versions of the code.

    Those of a part can depend on its settings, so it is what the part says of them that counts: a job is another one
    where that has changed.
    """
    parts = {str(name): config[name] for name in config if name not in ASIDE}
    plain: Any = OmegaConf.to_container(OmegaConf.create(parts, parent=config), resolve=True)
    own = {key: describe(str(target)).versions for key, target in targets(plain)}
    return artifacts.digest({"config": plain, "places": dict(places(plain)), "versions": VERSION, "parts": own})


def places(config: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    """Yield every file and folder that a config names, with its stamp."""
    declared = describe(str(config.get("_target_"))).settings or {}
    for name, value in config.items():
        if isinstance(value, dict):
            yield from places(value)
        elif name in PLACES and isinstance(value, str) and not (name in declared and declared[name].rules):
            path = Path(value).expanduser()  # no word out of a few, as attack.path=noise is
            if path.exists():
                yield str(path.resolve()), stamp(path.resolve())


def stamp(path: Path) -> list[int]:
    """Return the number of files at a path, their total size and the latest modification time."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    facts = [file.stat() for file in files]
    return [len(facts), sum(one.st_size for one in facts), max((one.st_mtime_ns for one in facts), default=0)]


def words_of(text: Any) -> list[str]:
    """Return the overrides of an entry; none if it is damaged."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return []
    return found if isinstance(found, list) else []


class Ledger:
    """The attempts in the file `path`, which is created with the first entry."""

    def __init__(self, path: Path):
        self.path = path

    @contextmanager
    def book(self) -> Iterator[sqlite3.Connection]:
        """Open the file for one transaction, waiting for other processes' transactions.

        Raises RequestError if it is damaged or not a ledger.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(sqlite3.connect(self.path, timeout=60)) as book, book:
                book.execute(TABLE)
                yield book
        except sqlite3.Error as error:
            raise RequestError(
                f"the ledger {self.path} cannot be used ({error}): if it is damaged, move it away; "
                "finished stages are found again without it"
            ) from error

    def start(self, key: str, sweep: str, folder: Path, overrides: list[str]) -> int:
        """Record the start of an attempt and return its number; a running attempt at the same job is marked lost."""
        entry = (key, sweep, str(folder), json.dumps(overrides))
        with self.book() as book:
            book.execute("UPDATE attempts SET status = ? WHERE key = ? AND status = ?", (LOST, key, RUNNING))
            added = book.execute(
                "INSERT INTO attempts (key, sweep, folder, overrides, status, started) VALUES (?, ?, ?, ?, ?, ?)",
                (*entry, RUNNING, time.time()),
            )
            assert added.lastrowid is not None
            return added.lastrowid

    def end(self, number: int, status: str, error: str | None = None) -> None:
        """Record how the attempt `number` ended."""
        with self.book() as book:
            book.execute(
                "UPDATE attempts SET status = ?, ended = ?, error = ? WHERE id = ?",
                (status, time.time(), error, number),
            )

    def attempts(self, keys: Iterable[str] | None = None) -> list[Attempt]:
        """Return the attempts at the jobs `keys`, or at all jobs, oldest first."""
        if not self.path.exists():
            return []
        selected = None if keys is None else set(keys)
        names = [field.name for field in fields(Attempt)]
        with self.book() as book:
            rows = book.execute(f"SELECT {', '.join(names)} FROM attempts ORDER BY id").fetchall()
        entries = [dict(zip(names, row, strict=True)) for row in rows]
        found = [Attempt(**entry | {"overrides": words_of(entry["overrides"])}) for entry in entries]
        return [one for one in found if selected is None or one.key in selected]

    def latest(self, keys: Iterable[str], sweep: str) -> dict[str, Attempt]:
        """Return by job a sweep's last attempt at it, else the last one of another sweep that is done and still there.

        A concurrent sweep may try the same job in a folder of its own.
        """
        found = self.attempts(keys)
        there = [one for one in found if one.status == DONE and (Path(one.folder) / "metrics.json").exists()]
        return {one.key: one for one in [*there, *(one for one in found if one.sweep == sweep)]}

    def failed(self, sweep: str) -> bool:
        """Return whether a job of this sweep has failed."""
        return any(one.status == FAILED and one.sweep == sweep for one in self.attempts())

    def done(self, key: str) -> bool:
        """Return whether any attempt at the job is done and its run folder still says so."""
        done = [Path(one.folder) / "metrics.json" for one in self.attempts([key]) if one.status == DONE]
        return any(artifacts.recall(path, dict[str, Any]()).get("status") == DONE for path in reversed(done))
