"""Installed plugins: the yamls and the parts that they add to bdiff's own. None is imported.

A plugin is an installed package with an entry point in the group `bdiff.parts` that names its python package; the yamls
in that package's `conf` folder are options like those of bdiff's own conf/, and name parts in the package.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from bdiff.common.errors import one_line
from bdiff.config.keys import targets

GROUP = "bdiff.parts"
PACKAGE = "bdiff.conf"  # bdiff's own yamls
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Folder:
    """A folder of yamls in addition to conf/, and its owner's name; for a plugin also the parts that its yamls name."""

    owner: str
    path: Path
    parts: frozenset[str] = frozenset()

    def files(self) -> dict[str, Path]:
        """Return the yamls by name, such as attack/none, sorted."""
        return {
            path.relative_to(self.path).with_suffix("").as_posix(): path for path in sorted(self.path.rglob("*.yaml"))
        }


@dataclass(frozen=True)
class Installed:
    """The plugins of this environment; and for each that cannot be used, by name, the reason."""

    folders: tuple[Folder, ...]
    broken: dict[str, str]


@cache
def installed() -> Installed:
    """Return the plugins of this environment, usable and broken ones separately."""
    folders, broken = [], {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        try:
            folders.append(plugin(point.name, point.module))
        except ValueError as error:
            broken[point.name] = str(error)
    return Installed(tuple(folders), broken)


def plugin(name: str, package: str) -> Folder:
    """Return the configs of a plugin, and the parts in its `package` that they name. ValueError if it is broken."""
    place = home(package)
    if place is None:
        raise ValueError(f"its package {package} was not found")
    folder = Folder(f"plugin {name}", place / "conf")
    files = folder.files()
    if not files:
        raise ValueError(f"{folder.path} has no yaml files")
    named = {target for path in files.values() for _, target in targets(loaded(path))}
    parts = frozenset(str(part) for part in named if str(part).startswith(f"{package}."))
    return Folder(folder.owner, folder.path, parts)


def home(package: str) -> Path | None:
    """Return the folder of a python package, found as an import would find it, importing at most its top level."""
    top, *inner = package.split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    places = [Path(place).joinpath(*inner) for place in (spec.submodule_search_locations or [] if spec else [])]
    return next((place for place in places if place.is_dir()), None)


def loaded(path: Path) -> DictConfig:
    """Return the settings in a yaml. ValueError with a line that names the file if it has none."""
    try:
        config: Any = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} cannot be read: {one_line(error)}") from error
    if not isinstance(config, DictConfig):
        raise ValueError(f"{path} has no settings")
    return config


@cache
def warn_broken() -> None:
    """Warn of each plugin that cannot be used, once."""
    for name, line in installed().broken.items():
        log.warning("bdiff: plugin %s is skipped: %s", name, line)


def clashes(own: Iterable[str], folders: Iterable[Folder]) -> Iterator[str]:
    """Yield a line for each yaml of `folders` whose name is already in `own` (bdiff's) or in an earlier folder."""
    owners = dict.fromkeys(own, "bdiff")
    for folder in folders:
        for name in folder.files():
            if name in owners:
                yield f"{folder.owner} has {name}.yaml, as {owners[name]} has: rename it, or leave {folder.owner} out"
            owners.setdefault(name, folder.owner)


class Configs(SearchPathPlugin):
    """Adds the yamls of plugins to Hydra's search path, after bdiff's own, but not in other apps."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        ours = any(one.path == f"pkg://{PACKAGE}" for one in search_path.get_path())
        for folder in installed().folders if ours else ():
            search_path.append(folder.owner, f"file://{folder.path}")


def register() -> None:
    """Register the plugins' yamls with Hydra, for this process."""
    Plugins.instance().register(Configs)
