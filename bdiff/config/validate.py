"""The checks of a request, its values one by one and its parts together, before torch is imported."""

from importlib import import_module
from itertools import chain
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bdiff.common.errors import one_line
from bdiff.common.places import home_problems, shown
from bdiff.config.instantiate import foreign
from bdiff.config.keys import leaves, targets
from bdiff.config.rules import MIXED, OPTIONAL, RULES, type_problem

#: where the checks of what parts make together stand: each module's CHECKS, with the keys that a check reads
CHECKED = (
    *("bdiff.config.environment", "bdiff.data.check", "bdiff.pictures.check", "bdiff.model.check"),
    *("bdiff.diffusion.check", "bdiff.defense.check", "bdiff.metric.check", "bdiff.classifier.check"),
)


def value_problems(config: DictConfig, base: DictConfig) -> list[str]:
    """Return what is wrong with the values of a composed config, one by one and where parts meet.

    `base` is the same config before values were changed: its values say what type each should have.
    """
    before, now = leaves(base), leaves(config)
    if early := target_problems(config) or home_problems(
        config, now
    ):  # then nothing is built, not even to be looked at
        return early
    changed = [key for key in before | now if key_changed(key, before, now) and not key.startswith("hydra.")]
    broken = {key: told for key in changed if (told := value_problem(key, config, base))}
    problems = list(broken.values())
    for keys, check in chain.from_iterable(import_module(name).CHECKS for name in CHECKED):
        if not any(name.startswith(key) for name in broken for key in keys):
            problems += check(config)
    return problems


def key_changed(key: str, before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether the value of `key` is another one, or has become settings of its own."""
    return key not in now or before.get(key) != now[key]


def value_problem(key: str, config: DictConfig, base: DictConfig) -> str | None:
    """Return how the value of `key` breaks its rule or differs in type from its default."""
    default = OmegaConf.select(base, key)
    try:
        value = OmegaConf.select(config, key, default=default)
    except OmegaConfBaseException as error:
        return f"{key}: {one_line(error)}"
    if value is None:
        return None if default is None or key in OPTIONAL else f"{key} cannot be null: its default is {default}"
    if isinstance(value, DictConfig) and value and not isinstance(default, DictConfig):
        return f"{key}={value} must be a value, not settings in braces"
    kind = OPTIONAL.get(key, type(default))
    try:
        told = RULES[key](value) if key in RULES else None
    except TypeError:  # it cannot even be compared; its type says why
        told = None
    told = told or (None if key in MIXED else type_problem(value, kind))
    return f"{key}={shown(value)} {told}" if told else None


def target_problems(config: DictConfig) -> list[str]:
    """Return which parts the config names that it may not."""
    parts = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    return [line for key, target in targets(parts) if (line := foreign(key, target))]
