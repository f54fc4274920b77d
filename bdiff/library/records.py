"""Records of runs, read from their folders, and lists of records that can be filtered and tabulated."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bdiff.common.errors import RequestError
from bdiff.report.runs import Run, find, read


@dataclass(frozen=True)
class Record:
    """One run: its settings and its results, from its config.yaml and metrics.json."""

    name: str
    folder: Path
    status: str  # done, failed, interrupted or running
    metrics: dict[str, float]  # by who/what, such as suspect/asr
    protocol: dict[str, Any] = field(repr=False)  # what is needed to compare the metrics
    keys: dict[str, str] = field(repr=False)  # of the stages that the metrics depend on
    settings: dict[str, Any] = field(repr=False)  # each dotted key of the config, and each group's chosen option
    error: str | None = None

    @classmethod
    def of(cls, run: Run) -> "Record":
        """Return the record of a run."""
        record = run.record
        protocol, keys = record.get("protocol", {}), record.get("keys", {})
        name, status, error = str(record.get("name", run.folder.name)), record["status"], record.get("error")
        return cls(name, run.folder, status, run.metrics, protocol, keys, run.settings, error)


class Records(list[Record]):
    """Records of runs, in the order of their folders."""

    def where(self, fits: Callable[[Record], bool]) -> "Records":
        """Return the records for which `fits` is true."""
        return Records(filter(fits, self))

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per run: its name, status and folder, the settings in which the runs differ, and its metrics."""
        keys = dict.fromkeys(key for record in self for key in record.settings)
        apart = [key for key in keys if any(one.settings.get(key) != self[0].settings.get(key) for one in self)]
        return [
            {"name": record.name, "status": record.status, "folder": str(record.folder)}
            | {key: record.settings.get(key) for key in apart}
            | record.metrics
            for record in self
        ]

    def to_pandas(self) -> Any:
        """Return `rows` as a pandas DataFrame; as a list if pandas is not installed."""
        if find_spec("pandas") is None:
            return self.rows()
        import pandas

        return pandas.DataFrame(self.rows())


def runs(folder: str | Path = "outputs") -> Records:
    """Return the runs at or below a folder; those with damaged files are skipped with a warning.

    Raises RequestError if there is no such folder.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise RequestError(f"{folder} is not a folder: bdiff.runs needs one with runs")
    return Records(map(Record.of, find([place])))


def record_in(folder: Path) -> Record:
    """Return the record of the run in `folder`."""
    return Record.of(read(folder))
