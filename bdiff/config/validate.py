"""The checks of a request, of single values and of combinations, before torch is imported."""

import math
from collections.abc import Iterator
from importlib import import_module
from itertools import chain
from types import NoneType
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bdiff.common.errors import one_line
from bdiff.common.places import home_problems, shown
from bdiff.config.instantiate import foreign, ours
from bdiff.config.keys import leaves, settings, targets, unknown
from bdiff.config.parts import Part, Setting, describe

#: the declarations of the sections of a config that name no part
SECTIONS = {
    "": "bdiff.pipeline.settings.Run",
    "classifier": "bdiff.pipeline.settings.Classifier",
    "metric": "bdiff.pipeline.settings.Metric",
    "model": "bdiff.pipeline.settings.Model",
    "paths": "bdiff.pipeline.settings.Paths",
    "pretrain": "bdiff.pipeline.settings.Pretrain",
    "runtime": "bdiff.pipeline.settings.Runtime",
    "sample": "bdiff.pipeline.settings.Sample",
    "sampler": "bdiff.pipeline.settings.Sampler",
    "surrogate": "bdiff.pipeline.settings.Classifier",
    "sweep": "bdiff.launch.sweep.Sweep",
    "train": "bdiff.diffusion.training.TrainConfig",
}

#: modules with checks of combinations: each module's CHECKS, with the keys that a check reads
CHECKED = (
    *("bdiff.config.environment", "bdiff.data.check", "bdiff.pictures.check", "bdiff.model.check"),
    *("bdiff.diffusion.check", "bdiff.metric.check", "bdiff.classifier.check"),
)
#: keys that a part's own checks read in addition to its settings
SHARED = ("data.", "schedule.", "sample.", "sampler.", "defense.")

#: the value of a key that a config no longer has
REMOVED = object()

TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text (quote a number twice, as in name=\"'5'\")",
    ListConfig: "a list, as in [1,2]",
    DictConfig: "a group, as in {name:value}",
}


def part_of(config: DictConfig, key: str) -> Part | None:
    """Return the declarations of the settings directly below a dotted key, "" for the top; None if they are free."""
    node = OmegaConf.select(config, key) if key else config
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    if target:
        return describe(target) if target in ours() else None
    if key in SECTIONS:
        return describe(SECTIONS[key])
    setting = declaration(config, key)
    return setting.part if setting else None


def declaration(config: DictConfig, key: str) -> Setting | None:
    """Return the declaration of the setting at a dotted key; None if there is none."""
    parent, _, name = key.rpartition(".")
    part = part_of(config, parent)
    return (part.settings or {}).get(name) if part else None


def value_problems(config: DictConfig, base: DictConfig) -> list[str]:
    """Return what is wrong with the values of a composed config, singly and in combination.

    `base` is the same config before values were changed: its values give the types of settings that no part declares.
    """
    before, now = leaves(base), leaves(config)
    if early := target_problems(config) or home_problems(config, now):  # nothing is built then, not even to be checked
        return early
    keys = [key for key in before | now if not key.startswith("hydra.") and needs_check(key, before, now)]
    broken = {key: reason for key in keys if (reason := value_problem(key, config, base))}
    problems = [*broken.values(), *untaken(config, [*before])]
    for keys_read, check in chain.from_iterable(import_module(name).CHECKS for name in CHECKED):
        if not any(name.startswith(key) for name in broken for key in keys_read):
            problems += check(config)
    for place, part in parts_of(config):
        if not any(name.startswith((f"{place}.", *SHARED)) for name in broken):
            for path in part.checks:
                module, _, name = path.rpartition(".")
                problems += getattr(import_module(module), name)(config, place)
    return problems


def needs_check(key: str, before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether the value of `key` was changed, or comes from a file and is not a reference."""
    return key not in now or before.get(key) != now[key] or "${" not in str(now[key])


def value_problem(key: str, config: DictConfig, base: DictConfig) -> str | None:
    """Return how the value of `key` violates its declaration; without one, how its type differs from the default's."""
    try:
        value = OmegaConf.select(config, key, default=REMOVED)
    except OmegaConfBaseException as error:
        return f"{key}: {one_line(error)}"
    setting = declaration(config, key)
    if setting is None or value is None or isinstance(value, DictConfig):
        default = OmegaConf.select(base, key)
        setting = setting or Setting((type(default), *[NoneType] * (default is None)))
        if value is None:
            return None if setting.optional else f"{key} cannot be null: its default is {default}"
        if isinstance(value, DictConfig) and value and not isinstance(default, DictConfig):
            return f"{key}={value} must be a value, not settings in braces"
    if value is REMOVED:  # or replaced by a group of settings
        return None
    try:
        reason = next(filter(None, (rule(value) for rule in setting.rules)), None)
    except TypeError:  # it cannot even be compared; its type says why
        reason = None
    reason = reason or type_problem(value, setting.types + tuple(kind for rule in setting.rules for kind in rule.types))
    return f"{key}={shown(value)} {reason}" if reason else None


def type_problem(value: Any, types: tuple[type, ...]) -> str | None:
    """Return the problem that `value` is of none of `types`, if these have names; a whole number is a number too."""
    names = [TYPE_NAMES[kind] for kind in types if kind in TYPE_NAMES]
    kind = float if float in types and type(value) is int else type(value)
    fits = kind in types and (kind is not float or math.isfinite(value))
    return None if fits or not names else f"must be {' or '.join(names)}"


def untaken(config: DictConfig, keys: list[str]) -> Iterator[str]:
    """Yield the keys of conf/, or of a folder like it, that their part does not take."""
    parts = {parent: part_of(config, parent) for parent in {key.rpartition(".")[0] for key in keys} - {""}}
    for key in keys:
        parent, _, name = key.rpartition(".")
        part = parts.get(parent)
        if part and part.settings is not None and name not in {"_target_", *part.settings, *part.given}:
            yield unknown(key, settings(config) - {key})


def parts_of(config: DictConfig) -> Iterator[tuple[str, Part]]:
    """Yield the key and the declarations of every part of ours that a config names."""
    for key, target in named(config):
        if target in ours():
            yield key.removesuffix("._target_"), describe(target)


def named(config: DictConfig) -> Iterator[tuple[str, Any]]:
    """Yield the key and the value of every `_target_` of a request except Hydra's own."""
    yield from targets({str(name): part for name, part in config.items_ex(resolve=False) if name != "hydra"})


def target_problems(config: DictConfig) -> list[str]:
    """Return the parts that the config names but may not."""
    return [line for key, target in named(config) if (line := foreign(key, target))]
