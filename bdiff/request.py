"""What is wrong with a request, found before torch is imported and all told together, one line per problem."""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any

from hydra import compose, initialize_config_module
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import bdiff.data.check
import bdiff.model.check
from bdiff.errors import RequestError
from bdiff.make import make

PACKAGE = "bdiff.conf"


def at_least(least: float) -> Callable[[Any], str | None]:
    """Return a rule: a number not under `least`."""
    return lambda value: None if value >= least else f"must be at least {least}"


def above_zero(value: Any) -> str | None:
    """A rule: a positive number."""
    return None if value > 0 else "must be above 0"


def one_of(*names: str) -> Callable[[Any], str | None]:
    """Return a rule: one of `names`."""
    return lambda value: None if value in names else nearest(str(value), names)


def share(value: Any) -> str | None:
    """A rule: a number from 0 to 1."""
    return None if 0 <= value <= 1 else "is not a share: choose a value from 0 to 1"


def device(value: Any) -> str | None:
    """A rule: a device's name."""
    fits = re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(value))
    return None if fits else "is not known: choose from auto, cpu, cuda, cuda:N"


#: what a value must be like, beside having the type of the default it replaces; None values are not looked at
RULES: dict[str, Callable[[Any], str | None]] = {
    "attack.poison_rate": share,
    "attack.poison_mode": one_of("replace", "append"),
    "data.size": at_least(8),
    "data.channels": one_of(1, 3),  # type: ignore[arg-type]
    "data.split": one_of("train", "test", "all"),
    "data.limit": at_least(1),
    "classifier.hold_out": share,
    "metric.asr_threshold": above_zero,
    "metric.batch_size": at_least(1),
    "runtime.device": device,
    "runtime.memory": at_least(0),
    "runtime.workers": at_least(0),
    "runtime.keep": at_least(1),
    "runtime.log_every": at_least(1),
    "runtime.checkpoint_seconds": at_least(0),
    "sample.count": at_least(2),
    "sample.batch_size": at_least(1),
    "sample.steps": at_least(1),
    "sample.precision": one_of("auto", "bf16", "fp32"),
    "schedule.num_train_timesteps": at_least(2),
    "seed": at_least(0),
    "tracker.mode": one_of("auto", "online", "offline", "disabled"),
    "train.batch_size": at_least(1),
    "train.clip_norm": above_zero,
    "train.ema": share,
    "train.epochs": at_least(0),
    "train.lr": above_zero,
    "train.optimizer": one_of("adam", "adamw"),
    "train.precision": one_of("auto", "bf16", "fp32"),
    "train.steps": at_least(0),
    "train.warmup": at_least(0),
    "train.weight_decay": at_least(0),
    "trigger.side": at_least(1),
}

#: keys whose default says too little about their type
TYPES: dict[str, type] = {
    "data.limit": int,
    "metric.asr_threshold": float,
    "sample.steps": int,
    "train.ema": float,
    "train.epochs": float,
    "train.steps": int,
    "train.clip_norm": float,
    "trigger.side": int,
}


def nearest(word: str, known: Iterable[Any], limit: int = 12) -> str:
    """Return "is not known" with the nearest spelling, if one is near, and what could have been said instead."""
    names = sorted(map(str, known))
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    listed = ", ".join(names) if len(names) <= limit else ", ".join(close) or f"{len(names)} others"
    meant = f"; did you mean {close[0]}?" if close else ""
    return f"is not known{meant}" + (f" (choose from {listed})" if len(names) <= limit else "")


def jobs(overrides: list[str], multirun: bool) -> list[DictConfig]:
    """Return the composed config of each job that `overrides` ask for. Raises RequestError with every problem."""
    with initialize_config_module(PACKAGE, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parsed, problems = parse(overrides)
        usable = []
        groups = group_options(loader)
        for override in parsed:
            told = group_problems(override, groups)
            problems += told
            usable += [] if told else [override]
        base = compose_one([one for one in usable if is_choice(one, groups) and not one.is_sweep_override()])
        known = set(leaves(base)) | set(groups)
        for override in list(usable):
            told = key_problems(override, known, groups)
            problems += told
            if told:
                usable.remove(override)
        if not multirun:
            for override in [one for one in usable if one.is_sweep_override()]:
                problems.append(f"{override.input_line} asks for several values: that is a sweep, say bdiff run -m")
                usable.remove(override)
        batches = BasicSweeper.split_arguments(usable, max_batch_size=None)[0] if multirun else None
        lines = batches if batches is not None else [[one.input_line or "" for one in usable]]
        configs = []
        for line in lines:
            try:
                config = compose("config", line, return_hydra_config=True)
                HydraConfig.instance().set_config(config)
                problems += value_problems(config)
                configs.append(config)
            except (HydraException, OmegaConfBaseException) as error:
                problems.append(one_line(error))
    if problems:
        raise RequestError(*dict.fromkeys(problems))
    return configs


def compose_one(overrides: list[Override]) -> DictConfig:
    """Compose the config that the given group choices lead to."""
    return compose("config", [one.input_line or "" for one in overrides], return_hydra_config=True)


def parse(overrides: list[str]) -> tuple[list[Override], list[str]]:
    """Return the overrides that can be read, and a problem for each that cannot."""
    parser, parsed, problems = OverridesParser.create(), [], []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException:
            shape = "write key=value" if "=" not in text else "quote special characters, as in 'key=\"a,b\"'"
            problems.append(f"{text!r} cannot be read: {shape}")
    return parsed, problems


def group_options(loader: ConfigLoader) -> dict[str, list[str]]:
    """Return bdiff's config groups and the options of each."""
    found: dict[str, list[str]] = {}
    pending = ["data", "metric"] + [name for name in loader.list_groups("") if name != "hydra"]
    for group in pending:
        options = loader.get_group_options(group)
        if options:
            found[group] = options
        pending += [f"{group}/{inner}" for inner in loader.list_groups(group) if f"{group}/{inner}" not in pending]
    return found


def is_choice(override: Override, groups: dict[str, list[str]]) -> bool:
    """Whether the override picks an option of a group."""
    return override.key_or_group in groups


def group_problems(override: Override, groups: dict[str, list[str]]) -> list[str]:
    """Return what is wrong with a group choice: an option that does not exist."""
    group = override.key_or_group
    if group not in groups or override.is_delete():
        return []
    value = override.value()
    chosen: list[Any] = value.list if isinstance(value, ChoiceSweep) else [value]
    return [
        f"{group}={option} {nearest(option, groups[group])}"
        for option in map(str, chosen)
        if option not in groups[group]
    ]


def key_problems(override: Override, known: set[str], groups: dict[str, list[str]]) -> list[str]:
    """Return what is wrong with an override's key: no such key, when it is not meant to be new."""
    key = override.key_or_group
    if override.is_add() or override.is_force_add() or key in known or key.startswith("hydra"):
        return []
    if any(name.startswith(f"{key}.") for name in known):
        return [] if override.is_delete() else [f"{key} is a group of settings: set one of them, as in {key}.<name>="]
    words = [name for name in known if not name.startswith("hydra")]
    siblings = [name for name in words if name.rpartition(".")[0] == key.rpartition(".")[0]]
    short = [name for name in siblings if "/" not in name]
    close = difflib.get_close_matches(key, words, n=1, cutoff=0.5)
    meant = f"; did you mean {close[0]}?" if close else ""
    listed = f" (known: {', '.join(sorted(short)[:16])})" if short else ""
    return [f"{key} is not known{meant}{listed}"]


def leaves(config: DictConfig, prefix: str = "") -> dict[str, Any]:
    """Return every key of `config`, dotted, with its unresolved value."""
    found: dict[str, Any] = {}
    for name, value in config.items_ex(resolve=False):
        if isinstance(value, DictConfig) and not value._is_none() and value:
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def value_problems(config: DictConfig) -> list[str]:
    """Return what is wrong with the values of a composed config, one by one and where parts meet."""
    broken = rule_problems(config)
    problems = [f"{key}={OmegaConf.select(config, key)} {told}" for key, told in broken.items()]
    if config.train.steps is None and config.train.epochs is None:
        problems.append("train.steps and train.epochs are both null: set one of them")
    for keys, check in CHECKS:
        if not any(name.startswith(key) for name in broken for key in keys):
            problems += check(config)
    return problems


def rule_problems(config: DictConfig) -> dict[str, str]:
    """Return what is wrong with the values that break `RULES` or have the wrong type, by key."""
    problems = {}
    for key, rule in RULES.items():
        value = OmegaConf.select(config, key)
        if value is not None:
            told = type_problem(value, TYPES.get(key)) or rule_or_type(rule, value)
            if told:
                problems[key] = told
    return problems


def type_problem(value: Any, wanted: type | None) -> str | None:
    """Return how `value` is not of the type `wanted`."""
    if wanted is int and (isinstance(value, bool) or not isinstance(value, int)):
        return "must be a whole number"
    if wanted is float and (isinstance(value, bool) or not isinstance(value, int | float)):
        return "must be a number"
    return None


def rule_or_type(rule: Callable[[Any], str | None], value: Any) -> str | None:
    """Return what `rule` says of `value`, or that it cannot be compared at all."""
    try:
        return rule(value)
    except TypeError:
        return "must be a number"


def path_problems(config: DictConfig) -> list[str]:
    """Return what is wrong with the images the request names."""
    return bdiff.data.check.problems(config.data.path)


def picture_problems(config: DictConfig) -> list[str]:
    """Return what is wrong with the trigger or the target: sizes that do not fit, files that hold no picture."""
    try:
        picture = make(config.trigger, size=config.data.size)
        make(config.target, size=config.data.size, trigger=picture)
    except (ValueError, TypeError, HydraException) as error:
        return [one_line(error)]
    return []


def model_problems(config: DictConfig) -> list[str]:
    """Return how the model does not fit the data, or its checkpoint the model."""
    unet: dict[str, Any] = OmegaConf.to_container(config.model.unet, resolve=True)  # type: ignore[assignment]
    schedule: dict[str, Any] = OmegaConf.to_container(config.schedule, resolve=True)  # type: ignore[assignment]
    schedule.pop("_target_")
    problems = bdiff.model.check.problems(config.model.pretrained, unet, schedule)
    size, halvings = config.data.size, len(unet["block_out_channels"]) - 1
    if size % 2**halvings:
        problems.append(f"data.size={size} is no multiple of {2**halvings}, which the model's {halvings} halvings need")
    return problems


def sampler_problems(config: DictConfig) -> list[str]:
    """Return what the sampler cannot do."""
    problems = []
    if config.sample.clip and "clip_sample" not in config.sampler.scheduler:
        problems.append("sample.clip=true works with sampler=ddpm and sampler=ddim only")
    if config.sample.steps > config.schedule.num_train_timesteps:
        problems.append(
            f"sample.steps={config.sample.steps} is more than the schedule's {config.schedule.num_train_timesteps}"
        )
    return problems


def device_problems(config: DictConfig) -> list[str]:
    """Return why a CUDA device that is asked for by name cannot be used."""
    name = str(config.runtime.device)
    if not name.startswith("cuda"):
        return []
    import torch

    index = int(name.partition(":")[2] or 0)
    if index < torch.cuda.device_count():
        return []
    found = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
    return [f"runtime.device={name}, but torch finds {found} here: use runtime.device=cpu or auto"]


#: checks of what parts of a request make together, each left out when one of the keys it reads is wrong by itself
CHECKS: list[tuple[tuple[str, ...], Callable[[DictConfig], list[str]]]] = [
    (("data.path",), path_problems),
    (("data.size", "data.channels", "trigger.", "target."), picture_problems),
    (("data.size", "data.channels", "model.", "schedule."), model_problems),
    (("sample.", "schedule."), sampler_problems),
    (("runtime.device",), device_problems),
]


def one_line(error: BaseException) -> str:
    """Return the first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
