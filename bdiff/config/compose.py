"""What is wrong with a request: found before torch is imported and reported all at once, one line per problem."""

import difflib
import re

from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bdiff.common.errors import RequestError, few, one_line
from bdiff.common.spelling import nearest
from bdiff.config.folders import SEARCHPATH, hydra_problems, named, with_folder
from bdiff.config.keys import added_problems, children, leaves, settings, unknown
from bdiff.config.options import PACKAGE, Options, defaults, group_options, keys_of
from bdiff.config.plugins import register, warn_broken
from bdiff.config.sweeps import sweep_problems, written_out
from bdiff.config.validate import declaration, value_problems
from bdiff.config.words import normal, unreadable

#: Hydra options that a request, or a sweep, must not set, and why
REFUSED = {
    "hydra.job.chdir": "relative paths would change their meaning in each job of a sweep: remove it",
    "hydra.mode": "use bdiff run -m for a sweep and bdiff run for a single run: remove it",
}

#: the keys of conf/config.yaml itself
OURS = ("name", "paths", "sweep")


def jobs(overrides: list[str], multirun: bool) -> list[DictConfig]:
    """Return the composed config of each job that `overrides` request. Raises RequestError with every problem."""
    configs, problems, usable = [], [], []
    overrides = [normal(word) for word in overrides]
    folders = named(overrides)
    if folders:  # whose yamls may have been edited since
        defaults.cache_clear()
        overrides = with_folder(overrides)
    groups = group_options(folders)
    warn_broken()
    register()
    if multirun:
        overrides = written_out(overrides)
    with initialize_config_module(PACKAGE, version_base="1.3"):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        for text in overrides:
            try:
                (override,) = parser.parse_overrides([text])
            except HydraException:
                problems.append(unreadable(text))
                continue
            found = override_problems(override, groups, multirun)
            problems += found
            usable += [] if found else [override]
        lines = [[one.input_line or "" for one in usable]]
        for line in BasicSweeper.split_arguments(usable, max_batch_size=None)[0] if multirun else lines:
            job = parser.parse_overrides(line)
            config, found = one_job(job, groups)
            problems += found
            if config is not None:
                problems += sweep_problems(config, job)
                configs.append(config)
    if problems:
        raise RequestError(*dict.fromkeys(problems))
    return configs


def override_problems(override: Override, groups: Options, multirun: bool) -> list[str]:
    """Return what is wrong with a single override: no key, an option that does not exist, a sweep without -m."""
    key = override.key_or_group
    if not key:
        return [unreadable(override.input_line or "")]
    group, _, folder = key.partition("/")
    if key not in groups and any(option.startswith(f"{folder}/") for option in groups.get(group, [])):
        return [f"{key} is a folder of options: write {group}={folder}/{override.get_value_element_as_str()}"]
    sweep = override.is_sweep_override()
    if sweep and not override.is_discrete_sweep():
        return [f"{override.input_line} is an endless sweep: list the values, as in {key}=1,2,3"]
    if (reason := REFUSED.get(key)) and (multirun or key != "hydra.job.chdir"):
        return [f"{override.input_line}: {reason}"]
    if key.partition(".")[0] == "hydra" and (override.is_delete() or (override.value() is None and given(key))):
        return [f"{override.input_line} removes what Hydra needs: leave it out, or give {key} a value"]
    if override.is_delete():
        return [needed(override)] if key in groups or key.partition(".")[0] in OURS else []
    problems = []
    if key in groups:
        none = ["null"] if defaults(()).hydra.runtime.choices.get(key) is None else []
        chosen = list(override.sweep_string_iterator()) if sweep else [override.get_value_element_as_str()]
        wrong = [option for option in chosen if option not in [*groups[key], *none]]
        problems = [f"{key}={option} {nearest(option, same_folder(option, [*groups[key]]))}" for option in wrong]
        if not chosen:
            problems = [
                f"{override.input_line} matches nothing: list the options, as in {key}={next(iter(groups[key]))}"
            ]
    if sweep and not multirun:
        problems.append(f"{override.input_line} has several values, which makes it a sweep: use bdiff run -m")
    return problems


def needed(override: Override) -> str:
    """Return the problem that an override removes what a run reads."""
    return f"{override.input_line} removes what a run needs: give {override.key_or_group}=<value> instead"


def one_job(overrides: list[Override], groups: Options) -> tuple[DictConfig | None, list[str]]:
    """Return the config that one job's `overrides` compose to, if they do, and its problems."""
    problems: list[str] = []
    try:
        choices = tuple(one.input_line or "" for one in overrides if one.key_or_group in (SEARCHPATH, *groups))
        base = defaults(choices)
        HydraConfig.instance().set_config(base)
        usable = []
        for override in overrides:
            found = key_problems(override, base, groups)
            problems += found
            usable += [] if found else [override.input_line or ""]
        chosen_alone = choices == tuple(usable)  # composing takes most of the time
        config = base.copy() if chosen_alone else compose("config", usable, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        if config.hydra.searchpath:
            problems += hydra_problems(config, base, defaults(()))
        return config, problems + added_problems(config, base) + value_problems(config, base)
    except (HydraException, OmegaConfBaseException) as error:
        return None, [*problems, one_line(error)]


def same_folder(option: str, options: list[str]) -> list[str]:
    """Return those of a group's `options` in the folder that `option` names; all if it names none."""
    folders = {one.partition("/")[0] for one in options if "/" in one}
    (folder,) = difflib.get_close_matches(option.partition("/")[0], folders, n=1) or [""]
    return [one for one in options if one.startswith(f"{folder}/")] or options


def given(key: str) -> bool:
    """Return whether a key of Hydra's has a default value, even one that only a run can resolve."""
    parent, _, name = key.rpartition(".")
    holder = OmegaConf.select(defaults(()), parent)
    node = holder._get_node(name) if isinstance(holder, DictConfig) else None
    return isinstance(node, Node) and node._value() is not None


def key_problems(override: Override, base: DictConfig, groups: Options) -> list[str]:
    """Return what is wrong with an override's key: not in `base`, unless it is added with +."""
    key = override.key_or_group
    if override.is_add() or override.is_force_add() or key in groups or re.match(r"hydra\b", key):
        return []
    if override.is_delete() and declaration(base, key):
        return [needed(override)]
    existing = leaves(base)
    if key in existing or (override.is_delete() and any(name.startswith(f"{key}.") for name in existing)):
        return []
    known = settings(base) | set(groups)
    if (group := key.replace(".", "/")) in groups:
        return [f"{key} is a group: write {group}= (choose from {', '.join(groups[group])})"]
    if inner := children(known, key):
        return [f"{key} holds settings: set one, as in {key}.{min(inner)}="]
    for group in (one for one in groups if key.startswith(f"{one.replace('/', '.')}.")):
        if others := [option for option in groups[group] if key in keys_of(group, option, groups)]:
            chosen = base.hydra.runtime.choices[group]
            owners = " or ".join(few(others, 5, "{} more"))
            return [f"{key} is not known with {group}={chosen}: it belongs to {group}={owners}"]
    return [unknown(key, known)]
