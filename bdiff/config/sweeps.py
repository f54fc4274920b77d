"""Sweeps that options define in hydra.sweeper.params, written out as overrides."""

import re
from typing import Any

from hydra import initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bdiff.common.errors import RequestError
from bdiff.config.folders import OF_HYDRA, named, parameter_problems
from bdiff.config.keys import leaves
from bdiff.config.options import Options, defaults, group_options
from bdiff.config.plugins import PACKAGE, register
from bdiff.config.words import normal, quoted


def written_out(overrides: list[str]) -> list[str]:
    """Return a sweep's overrides, preceded by those of its options' hydra.sweeper.params; the typed ones win.

    An experiment that contains only a sweep is replaced by its overrides, and the jobs do not name it.
    """
    words = [normal(word) for word in overrides]
    folders = named(words)
    if folders:  # whose yamls may have been edited since
        defaults.cache_clear()
    groups = group_options(folders)
    register()
    with initialize_config_module(PACKAGE, version_base="1.3"):
        known = [override for word in words if (override := readable(word))]
        whole = [one for one in known if not one.is_sweep_override() and chooses(one, groups)]
        try:
            brought = defaults(tuple(one.input_line or "" for one in whole))
            bare = defaults(tuple(one.input_line or "" for one in whole if one.key_or_group != "experiment"))
        except (HydraException, OmegaConfBaseException):  # the checks of the request report it
            return words
    if folders and (problems := parameter_problems(swept(brought))):
        raise RequestError(*problems)
    if swept(brought) and of_jobs(brought) == of_jobs(bare):
        words = [word for word in words if word.partition("=")[0] != "experiment"]
    return [*(normal(f"{key}={value}") for key, value in swept(brought).items()), *words]


def shared_alike(overrides: list[str]) -> list[str]:
    """Return a sweep's overrides in a form that Hydra can compose what its jobs share from.

    It leaves out what is swept, such as an attack, and so has no place for a setting that only the swept options have:
    that becomes a sweep of one value.
    """
    groups = group_options(named(overrides))
    with initialize_config_module(PACKAGE, version_base="1.3"):
        known = [override for word in overrides if (override := readable(word))]
        whole = (one for one in known if not one.is_sweep_override() and chooses(one, groups))
        there = {*leaves(defaults(tuple(one.input_line or "" for one in whole)))}
    return [swept_alone(word) if lacking(readable(word), there, groups) else word for word in overrides]


def lacking(override: Override | None, there: set[str], groups: Options) -> bool:
    """Return whether an override gives one value to a setting that is not among the keys `there`."""
    if override is None or override.type is not OverrideType.CHANGE or override.is_sweep_override():
        return False
    key = override.key_or_group
    if key in groups or OF_HYDRA.match(key):
        return False
    return key not in there and not any(one.startswith(f"{key}.") for one in there)


def swept_alone(word: str) -> str:
    """Return an override as a sweep of its one value."""
    key, _, value = word.partition("=")
    return f"{key}=choice({value or quoted('')})"


def readable(word: str) -> Override | None:
    """Return a word as an override, or None if it is not one."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def repeated_values(overrides: list[str]) -> list[str]:
    """Return a line for each override of a sweep that has a value twice."""
    lines = []
    for word in overrides:
        override = readable(word)
        values = [*override.sweep_string_iterator()] if override and override.is_discrete_sweep() else []
        twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
        lines += [f"{word} has {twice[0]} twice: name each value once"] if twice else []
    return lines


def chooses(override: Override, groups: Options) -> bool:
    """Return whether an override names an existing option, or a list of them, or is one of Hydra's own."""
    key, value = override.key_or_group, override.value()
    if key not in groups:
        return bool(re.match(r"hydra\b", key))
    options = value if isinstance(value, list) else [override.get_value_element_as_str()]
    return all(str(option) in groups[key] for option in options)


def swept(config: DictConfig) -> dict[str, str]:
    """Return the overrides that a config defines for a sweep, by key."""
    return dict(config.hydra.sweeper.get("params") or {})


def of_jobs(config: DictConfig) -> dict[str, Any]:
    """Return the part of a config that applies to each job of a sweep."""
    plain: Any = OmegaConf.to_container(config)
    return {name: value for name, value in plain.items() if name != "hydra"}


def sweep_problems(config: DictConfig, overrides: list[Override]) -> list[str]:
    """Return the problem that a job's options define a sweep that its `overrides` are not part of."""
    typed = {override.get_key_element() for override in overrides}
    if swept(config).keys() <= typed:
        return []
    option = config.hydra.runtime.choices.get("experiment")
    about = f"experiment={option}" if option else "hydra.sweeper.params"
    return [f"{about} is a sweep: use bdiff run -m, with no other experiment"]
