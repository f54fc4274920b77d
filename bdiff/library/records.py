"""Runs as they are read back: one record a run, and lists of records that can be filtered and tabulated."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bdiff.common.errors import RequestError
from bdiff.report.runs import Run, find, read


@dataclass(frozen=True)
class Record:
    """One run: what it was asked for and what came of it, from its config.yaml and metrics.json."""

    name: str
    folder: Path
    status: str  # done, failed, interrupted or running
    metrics: dict[str, float]  # by who/what, as suspect/asr
    protocol: dict[str, Any] = field(repr=False)  # what has to be known to compare the metrics
    keys: dict[str, str] = field(repr=False)  # of the stages that the metrics rest on
    settings: dict[str, Any] = field(repr=False)  # each dotted key of the config, and each group's chosen option
    error: str | None = None

    @classmethod
    def of(cls, run: Run) -> "Record":
        """Return the record of a run folder that was read."""
        told = run.record
        protocol, keys = told.get("protocol", {}), told.get("keys", {})
        name, status, error = str(told.get("name", run.folder.name)), told["status"], told.get("error")
        return cls(name, run.folder, status, run.metrics, protocol, keys, run.settings, error)


class Records(list[Record]):
    """Records of runs, in the order of their folders."""

    def where(self, fits: Callable[[Record], bool]) -> "Records":
        """Return those that `fits`."""
        return Records(filter(fits, self))

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a run: its name, status and folder, the settings in which the runs differ, and its metrics."""
        keys = dict.fromkeys(key for record in self for key in record.settings)
        apart = [key for key in keys if any(one.settings.get(key) != self[0].settings.get(key) for one in self)]
        return [
            {"name": record.name, "status": record.status, "folder": str(record.folder)}
            | {key: record.settings.get(key) for key in apart}
            | record.metrics
            for record in self
        ]

    def to_pandas(self) -> Any:
        """Return `rows` as a pandas DataFrame; as they are, where pandas is not installed."""
        if find_spec("pandas") is None:
            return self.rows()
        import pandas

        return pandas.DataFrame(self.rows())


def runs(folder: str | Path = "outputs") -> Records:
    """Return the runs at or below a folder; those whose files are damaged are left out with a warning.

    Raises RequestError if there is no such folder.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise RequestError(f"{folder} is no folder: bdiff.runs takes one that holds runs")
    return Records(map(Record.of, find([place])))


def record_in(folder: Path) -> Record:
    """Return the record of the run in `folder`."""
    return Record.of(read(folder))
