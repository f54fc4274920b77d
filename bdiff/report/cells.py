"""Results with what places each (attack, trigger, data, model, sampler, defense), from a run or from a JSON."""

import logging
import re
import shlex
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bdiff.common.errors import RequestError
from bdiff.common.places import PLACES
from bdiff.config.words import quoted
from bdiff.report.pivot import latest
from bdiff.report.runs import Run
from bdiff.store import artifacts, results
from bdiff.store.foreign import load
from bdiff.store.provenance import in_words
from bdiff.store.schema import PREFIXES, ROLES

log = logging.getLogger(__name__)

#: parts of a config that name the user's folders and accounts, and do not belong in what is passed on
PRIVATE = ("paths", "tracker", "hydra", "sweep")
#: a model's name on the hub; a relative path of two parts looks the same
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")

#: what a result has from its run's record as it is
RECORDED = ("commit", "version", "dirty", "device", "protocol", "provenance")
#: groups whose options place a result
GROUPS = ("attack", "trigger", "target", "data", "model", "sampler", "defense")


@dataclass(frozen=True)
class Result:
    """A result and its place; one from elsewhere is the Run of its JSON, in `file`."""

    run: Run
    place: dict[str, Any]  # as `cell` of result/1
    file: Path | None = None
    json: dict[str, Any] | None = None  # the whole result, None for a run that is not done or cannot be exported

    @property
    def clean(self) -> bool:
        """Whether the model has no backdoor."""
        return self.place["attack"] == "none"

    @property
    def seed(self) -> str:
        """The seed, as readers see it."""
        return "?" if self.place["seed"] is None else str(self.place["seed"])

    @property
    def device(self) -> str:
        """The device that computed it."""
        return str((self.json or self.run.record).get("device") or "unknown")

    @property
    def code(self) -> str:
        """The commit of bdiff that computed it, or its version."""
        return in_words(self.json) if self.json else "unknown"

    @property
    def command(self) -> str | None:
        """The command that repeats it."""
        if self.file is None:
            return shlex.join(["bdiff", "run", *public(self.run)[1]])
        return self.json.get("command") if self.json else None

    @cached_property
    def slug(self) -> str:
        """A name for the result's files: what it is of, and a digest that tells it from others."""
        words = [self.place["attack"], self.place["trigger"], self.place["defense"], f"seed{self.place['seed']}"]
        safe = ("".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in word[:40])
                for word in words)  # fmt: skip
        return f"{'-'.join(safe)}-{artifacts.digest([self.place, self.run.config, self.run.record])[:8]}"


def results_of(runs: Iterable[Run]) -> list[Result]:
    """Return the results of runs, one for each config and seed: the newest that is done, else the newest."""
    return [Result(run, place_of(run), json=exported(run)) for run in latest(runs, [])]


def place_of(run: Run) -> dict[str, Any]:
    """Return what places a run's result, as `cell` of result/1."""
    place: dict[str, Any] = {group: option(run, group) for group in GROUPS}
    place |= {
        "poison_rate": number(run.value("attack.poison_rate")),
        "steps": whole(run.value("sample.steps")),
        "role": role(run, place["defense"]),
        "seed": whole(run.value("seed")),
    }
    if place["role"] == "detection" and run.value("defense.repair") is True:
        place["removal"] = option(run, "defense/removal")
    known = run.value("attack.adaptive_to")
    if isinstance(known, list) and known:
        place["adaptive_to"] = [str(name) for name in known]
    return place


def option(run: Run, group: str) -> str:
    """Return the option of a group that a run has: its name, else that of the part that it makes."""
    name = run.record.get("choices", {}).get(group)
    if name is None:
        name = str(run.value(f"{group}._target_") or "none").rpartition(".")[2]
    return str(name)


def role(run: Run, defense: str) -> str:
    """Return the role of a run's defense: by its metrics, else by where it stands in bdiff; `none` if unknown."""
    if defense == "none":
        return "none"
    found = (kind for prefix, kind in PREFIXES.items() if any(name.startswith(prefix) for name in run.metrics))
    folder = str(run.value("defense._target_")).removeprefix("bdiff.defense.").partition(".")[0]
    folder = {"shields": "shield"}.get(folder, folder)
    return next(found, folder if folder in ROLES else "none")


def number(value: Any) -> float | None:
    """Return a number, None for anything else."""
    return value if type(value) in (int, float) else None


def whole(value: Any) -> int | None:
    """Return a whole number, None for anything else."""
    return value if type(value) is int else None


def public(run: Run) -> tuple[dict[str, Any], list[str]]:
    """Return a run's config and overrides without the parts that name the user's folders and accounts.

    Of a file or folder among the other settings, the last part of its path stays.
    """

    def part(word: str) -> str:
        return word.lstrip("+~").replace("/", ".").partition("=")[0].partition(".")[0]

    def bare(word: str) -> str:
        key = word.partition("=")[0]
        value = run.value(key.lstrip("+"))
        name = last_part(key, value)
        return word if name == value else f"{key}={quoted(name)}"

    overrides = map(str, run.record.get("overrides", []))
    return (
        without_folders({name: settings for name, settings in run.config.items() if name not in PRIVATE}),
        [bare(word) for word in overrides if part(word) not in PRIVATE],
    )


def without_folders(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings with the last parts of the paths that they name."""
    return {
        name: without_folders(value) if isinstance(value, dict) else last_part(name, value)
        for name, value in settings.items()
    }


def last_part(key: str, value: Any) -> Any:
    """Return the last part of a path, if `key` is of files or folders; any other value, or a hub id, as it is."""
    if key.rpartition(".")[2] not in PLACES or not isinstance(value, str) or HUB_ID.fullmatch(value):
        return value
    return Path(value).name or value


def exported(run: Run) -> dict[str, Any] | None:
    """Return a run's result in the schema result/1; None if it has none, as a run that is not done or too old."""
    record = run.record
    if not run.done or not {*RECORDED} <= record.keys():
        return None
    place, (config, overrides) = place_of(run), public(run)
    finished = [made["finished"] for made in record["provenance"].values() if "finished" in made]
    found = {
        "schema": results.SCHEMA,
        "config": config,
        **{name: record[name] for name in RECORDED},
        "metrics": run.metrics,
        "date": max(finished, default=time.strftime("%Y-%m-%dT%H:%M:%S%z")),
        "cell": place,
        "name": record["name"],
        "command": shlex.join(["bdiff", "run", *overrides]),
        "overrides": overrides,
        "keys": record.get("keys", {}),
    }
    if wrong := results.problems(found):
        log.warning("%s is not exported: %s", run.folder, "; ".join(wrong))
        return None
    return found


def read_results(paths: Iterable[Path]) -> tuple[list[Result], list[str]]:
    """Return the results in JSONs, given as files or folders, and a line for each that is a result of no cell.

    Raises RequestError, with all faults, if one of them does not fit the schema.
    """
    placed, without, wrong = [], [], []
    for path in files(paths):
        found, faults = load(path)
        wrong += [f"{path}: {fault}" for fault in faults]
        if faults:
            continue
        if "cell" in found:
            placed.append(from_json(path, found))
        else:
            without.append(f"{path} has no cell, and is left out")
    if wrong:
        raise RequestError(*wrong)
    return placed, without


def files(paths: Iterable[Path]) -> list[Path]:
    """Return the JSONs at or below `paths`. Raises RequestError for what does not exist or has none."""
    paths = [*paths]
    if lacking := [f"{path} does not exist" for path in paths if not path.exists()]:
        raise RequestError(*lacking)
    found = {path: sorted(path.rglob("*.json")) if path.is_dir() else [path] for path in paths}
    if lacking := [f"{path} has no JSON in it: bdiff results export writes them" for path in paths if not found[path]]:
        raise RequestError(*lacking)
    return list(dict.fromkeys(one for some in found.values() for one in some))


def from_json(path: Path, found: dict[str, Any]) -> Result:
    """Return a result from elsewhere that fits the schema."""
    place = found["cell"]
    record = {
        "name": found.get("name", path.stem),
        "status": "done",
        "metrics": found["metrics"],
        "protocol": found["protocol"],
        "provenance": found["provenance"],
        "overrides": found.get("overrides", []),
        "choices": {group: place[group] for group in GROUPS},
    }
    return Result(Run(path.parent, record, found["config"]), place, path, found)
