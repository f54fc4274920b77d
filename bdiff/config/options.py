"""The config groups and their options: bdiff's own in conf/, plugins', and those of folders that a request adds."""

from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from bdiff.common.errors import RequestError
from bdiff.config.keys import leaves
from bdiff.config.plugins import PACKAGE, Folder, clashes, installed

CONF = Path(str(resources.files(PACKAGE)))

#: each group's options, with their yamls
Options = dict[str, dict[str, Path]]


def group_options(folders: Iterable[Folder] = ()) -> Options:
    """Return the config groups and the options of each; a folder in a group makes options like folder/option.

    RequestError if a yaml of plugins or `folders` has the same name as one of bdiff's, or of each other.
    """
    more = [*installed().folders, *folders]
    files = Folder("bdiff", CONF).files()
    if problems := list(clashes(files, more)):
        raise RequestError(*problems)
    for folder in more:
        files |= folder.files()
    listed = OmegaConf.load(CONF / "config.yaml").defaults
    groups = {str(name) for entry in listed if isinstance(entry, DictConfig) for name in entry}
    found: Options = {}
    for path, file in files.items():
        name = Path(path)
        if len(name.parts) == 1 or name.parts[0] == "hydra":  # launchers: Hydra and its plugins add more of them
            continue
        group = next((parent for parent in name.parents if parent.as_posix() in groups), name.parent)
        found.setdefault(group.as_posix(), {})[name.relative_to(group).as_posix()] = file
    return found


def keys_of(group: str, name: str, options: Options) -> set[str]:
    """Return the dotted keys that an option of `group` sets, itself or by the options that it builds on."""
    return set(leaves(own_settings(group, name, options), f"{group.replace('/', '.')}."))


def own_settings(group: str, name: str, options: Options | None = None) -> DictConfig:
    """Return what an option sets itself, without its choices in other groups; of bdiff or a plugin, or of `options`."""
    options = options or group_options()
    brought = OmegaConf.load(options[group][name])
    if not isinstance(brought, DictConfig):  # an empty yaml
        return OmegaConf.create()
    listed = brought.pop("defaults", [])
    bases = [
        own_settings(group, entry, options) for entry in listed if isinstance(entry, str) and entry in options[group]
    ]
    merged = OmegaConf.merge(*bases, brought)
    assert isinstance(merged, DictConfig)
    return merged


@cache
def defaults(choices: tuple[str, ...]) -> DictConfig:
    """Compose the config that the given group choices lead to."""
    return compose("config", list(choices), return_hydra_config=True)
