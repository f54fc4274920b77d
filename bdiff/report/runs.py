"""Reading run folders, for tables and pages."""

import json
import logging
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from bdiff.store import artifacts
from bdiff.store.schema import metric_range

log = logging.getLogger(__name__)

#: in a sweep's folder: the run folders of its jobs, relative to it
JOBS = "jobs.json"
PAGE = "report.html"  # of a run, a sweep or an audit
#: in a run's folder
FILES = ("config.yaml", "metrics.json")


@dataclass(frozen=True)
class Run:
    """One run folder: its metrics.json and its resolved config."""

    folder: Path
    record: dict[str, Any]
    config: dict[str, Any]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The value of every dotted key of the config, and every group's choice under the group's name."""
        return flat(self.config) | self.record.get("choices", {})

    def value(self, key: str) -> Any:
        """Return the run's value of `key`: a group's choice (`trigger`) or a dotted key's value, else None."""
        return self.settings.get(key)

    @property
    def done(self) -> bool:
        """Whether the run has finished."""
        return self.record["status"] == "done"

    @property
    def metrics(self) -> dict[str, float]:
        """The run's numbers, by `who/what`."""
        return self.record.get("metrics", {})

    @property
    def typed(self) -> list[str]:
        """The keys that were set on the run's command line."""
        return [word.lstrip("+~").partition("=")[0] for word in self.record.get("overrides", [])]


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a nested dict by dotted keys."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def read(folder: Path) -> Run:
    """Return the run in `folder`. Raises FileNotFoundError if there is none.

    Its config was resolved when it was written, so it is read as plain YAML, in C where that is installed: OmegaConf
    takes 20 times as long, which counts for hundreds of runs.
    """
    config = yaml.load((folder / "config.yaml").read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return Run(folder, artifacts.read_json(folder / "metrics.json"), config)


def find(paths: Iterable[Path]) -> list[Run]:
    """Return every run at or below `paths`, in the order of their folders, without duplicates.

    A sweep's folder (its jobs.json) also leads to its jobs that an earlier sweep has done.
    """
    found: dict[Path, None] = {}
    for root in paths:
        for path in sorted(path for path in artifacts.walk(root) if path.name in ("metrics.json", JOBS)):
            jobs = artifacts.recall(path, list[str]()) if path.name == JOBS else ["."]
            found |= dict.fromkeys((path.parent / job).resolve() for job in jobs)
    whole = [folder for folder in found if all(os.path.lexists(folder / name) for name in FILES)]
    return [run for folder in whole if (run := readable(folder))]


def measured(runs: Iterable[Run], *metrics: str) -> list[Run]:
    """Return the runs with any of `metrics`, and those that have not finished."""
    return [run for run in runs if not run.done or {*metrics} & {*run.metrics}]


def readable(folder: Path) -> Run | None:
    """Return the run in `folder`; None, with a warning, if its files are damaged."""
    try:
        if pipes := [name for name in FILES if not (folder / name).is_file()]:
            raise ValueError(f"{pipes[0]} is not a file")
        run = read(folder)
        check(run)
    except (OSError, ValueError, yaml.YAMLError) as error:
        log.warning("%s is skipped: %s", folder, " ".join(str(error).split()))
        return None
    return run


def check(run: Run) -> None:
    """Raise ValueError if the content of a run's files is not what runs write."""
    if not (isinstance(run.config, dict) and run.config):
        raise ValueError("config.yaml has no config")
    try:
        json.dumps(run.config)
    except (TypeError, ValueError, RecursionError) as error:  # YAML has more types than configs do
        raise ValueError(f"config.yaml has no config: {error}") from error
    kinds = {"choices": dict, "metrics": dict, "overrides": list}
    if not (isinstance(run.record, dict) and "status" in run.record):
        raise ValueError("metrics.json has no record of a run")
    if wrong := [name for name, kind in kinds.items() if not isinstance(run.record.get(name, kind()), kind)]:
        raise ValueError(f"{wrong[0]} in metrics.json is damaged")
    for name, value in run.metrics.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{name} in metrics.json is {value!r}, not a finite number")
        least, most = metric_range(name)
        if not least <= value <= most:
            raise ValueError(f"{name} in metrics.json is {value!r}, outside of {least:g} to {most:g}")
