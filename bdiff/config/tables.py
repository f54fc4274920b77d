"""The tables of conf/experiment/table: the sweeps each consists of, and the commands that show it."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from bdiff.common.errors import RequestError
from bdiff.common.spelling import nearest
from bdiff.config.options import CONF

#: next to a table's sweeps, which are in folders named after its profiles, or are composed of options
ABOUT = "table.yml"
FOLDER = "experiment/table"


@dataclass(frozen=True)
class Table:
    """A table in one of its profiles."""

    folder: Path  # of its runs
    sweeps: dict[str, Path]  # what each chooses of the group experiment, in the order they run, and its folder
    launcher: str  # Hydra's, for all sweeps
    views: list[list[str]]  # bdiff's arguments that show and write it, one command after the other
    lacks: dict[str, list[str]]  # of a sweep, the keys that it does not have: the other sweeps alone take them


def table_names() -> list[str]:
    """Return the names of all tables."""
    return sorted(path.parent.name for path in (CONF / FOLDER).glob(f"*/{ABOUT}"))


def table_of(name: str, profile: str | None = None, outputs: Path = Path("outputs")) -> Table:
    """Return a table, in its first profile by default, with its runs below `outputs`.

    Raises RequestError for an unknown name or profile.
    """
    names = table_names()
    if name not in names:
        raise RequestError(f"table {name} {nearest(name, names)}")
    about: Any = OmegaConf.to_container(OmegaConf.load(CONF / FOLDER / name / ABOUT))
    profile = profile or next(iter(about["profiles"]))
    if profile not in about["profiles"]:
        raise RequestError(f"table {name}: profile {profile} {nearest(profile, about['profiles'])}")
    own, folder = about["profiles"][profile], outputs / "tables" / profile / about["folder"]
    lone = len(own["sweeps"]) == 1
    choice = partial(chosen, name, profile, about.get("composed", {}))
    sweeps = {choice(sweep): folder if lone else folder / sweep for sweep in own["sweeps"]}
    views = [[word.format(**own | {"folder": folder}) for word in view.split()] for view in about["views"]]
    lacks = {choice(sweep): keys for sweep, keys in about.get("lacks", {}).items()}
    return Table(folder, sweeps, own["launcher"], views, lacks)


def chosen(table: str, profile: str, composed: dict[str, list[str]], sweep: str) -> str:
    """Return what a sweep of a table chooses of the group experiment: an option, or those it is `composed` of.

    Options of a list are the profile's own where it has one of that name, else those that all profiles share.
    """
    if sweep not in composed:
        return f"table/{table}/{profile}/{sweep}"
    shared, own = (Path("table", table), Path("table", table, profile))
    parts = (own if (CONF / "experiment" / own / f"{part}.yaml").is_file() else shared for part in composed[sweep])
    return f"[{','.join(str(place / part) for place, part in zip(parts, composed[sweep], strict=True))}]"
