"""Folders of yamls that a request adds by --config-dir or hydra.searchpath: more options, over known parts only."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from bdiff.common.errors import RequestError
from bdiff.config.keys import leaves, targets
from bdiff.config.plugins import Folder, home
from bdiff.config.words import quoted

SEARCHPATH = "hydra.searchpath"

#: Hydra's own parts that a request may name if it also adds a folder of yamls
HYDRAS = re.compile(r"hydra_plugins\.[\w.]+|hydra\._internal\.core_plugins\.[\w.]+|hydra\.experimental\.callbacks\.\w+")

#: an override of one of Hydra's own settings
OF_HYDRA = re.compile(r"[+~]*hydra\b")

#: Hydra's keys that follow from a choice of options; and a sweep's parameters, which are checked like overrides
FOLLOW = ("hydra.runtime.", "hydra.overrides.", "hydra.job.override_dirname", SEARCHPATH, "hydra.sweeper.params")


def with_folder(overrides: list[str], folder: str | None = None) -> list[str]:
    """Return the overrides with `folder` (of --config-dir) added to hydra.searchpath, and plain paths in it.

    So Hydra imports no package given as pkg://, and jobs in other working directories find the same folders.
    """
    listed = [*places(overrides), *([folder] if folder else [])]
    if not listed:
        return overrides
    others = [word for word in overrides if not word.startswith(f"{SEARCHPATH}=")]
    paths = ",".join(quoted(one.path.absolute()) for one in found(listed))
    return [*others, f"{SEARCHPATH}=[{paths}]"]


def searched(hydra: HydraConf) -> list[str]:
    """Return the override of hydra.searchpath, if a job was composed with one, from Hydra's own config."""
    return [word for word in hydra.overrides.hydra if word.startswith(f"{SEARCHPATH}=")]


def asked(hydra: HydraConf) -> tuple[list[str], dict[str, str]]:
    """Return the overrides and the choices (group -> option) that a job was composed from, from Hydra's own config."""
    choices = {group: option for group, option in hydra.runtime.choices.items() if not group.startswith("hydra/")}
    return [*searched(hydra), *hydra.overrides.task], choices


def named(overrides: list[str]) -> list[Folder]:
    """Return the folders that the overrides name. RequestError with a line for each that does not exist."""
    return found(places(overrides))


def found(listed: list[str]) -> list[Folder]:
    """Return the folders that are `listed`, as hydra.searchpath has them; see `named`."""
    folders, problems = [], []
    for place in dict.fromkeys(listed):
        scheme, mark, rest = place.rpartition("://")
        path = home(rest.replace("/", ".")) if scheme == "pkg" else Path(rest)
        if (mark and scheme not in ("file", "pkg")) or path is None or not path.is_dir():
            problems.append(f"{place} is not a folder of yamls: see {SEARCHPATH} and --config-dir")
        else:
            folders.append(Folder(place, path))
    if problems:
        raise RequestError(*problems)
    return folders


def places(overrides: list[str]) -> list[str]:
    """Return the entries of the override of hydra.searchpath, if there is one. RequestError if it is not a list."""
    words = [word for word in overrides if word.startswith(f"{SEARCHPATH}=")]
    try:
        values: list[Any] = [OverridesParser.create().parse_override(word).value() for word in words]
    except HydraException:
        values = [None]
    if not all(isinstance(value, list) and all(isinstance(one, str) for one in value) for value in values):
        raise RequestError(f"{words[0]} must be a list of folders, as in '{SEARCHPATH}=[mine]'")
    if len(values) > 1:
        raise RequestError(f"{SEARCHPATH} is given {len(values)} times: list all folders in one override")
    return values[0] if values else []


def hydra_problems(config: DictConfig, chosen: DictConfig, plain: DictConfig) -> list[str]:
    """Return which of Hydra's settings, which may run code, a request's yamls set; `config` is the whole request's.

    `chosen` is composed from the chosen options only and `plain` from none: where they differ, a yaml is the cause.
    """
    before, after = leaves(plain.hydra, "hydra."), leaves(chosen.hydra, "hydra.")
    changed = [key for key in after if before.get(key) != after[key] and not key.startswith(FOLLOW)]
    named = [(key, part) for key, part in targets(config.hydra, "hydra.") if part]
    foreign = [(key, part) for key, part in named if not HYDRAS.fullmatch(str(part))]
    return [
        *map(set_by_yaml, changed),
        *parameter_problems(chosen.hydra.sweeper.params or {}),
        *(f"{key}={part} is refused with {SEARCHPATH}: it is not one of Hydra's own parts" for key, part in foreign),
    ]


def parameter_problems(params: Iterable[str]) -> list[str]:
    """Return which of a sweep's parameters, given by a yaml, are Hydra's own settings."""
    return [set_by_yaml(f"hydra.sweeper.params.{key}") for key in params if OF_HYDRA.match(str(key))]


def set_by_yaml(key: str) -> str:
    """Return the problem that a yaml of an added folder sets what it may not."""
    return f"{key} is set by a yaml: set Hydra's own settings on the command line"
