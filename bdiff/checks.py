"""What the values of a request must be like, and its parts together; looked at before torch is imported."""

import difflib
import math
import re
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import bdiff.data.check
import bdiff.defense.check
import bdiff.metric.check
import bdiff.model.check
from bdiff.draw import empty
from bdiff.make import foreign, make, targets
from bdiff.metric.fid.protocol import PRESETS
from bdiff.metric.names import ALSO


def at_least(least: float) -> Callable[[Any], str | None]:
    """Return a rule: a number not under `least`."""
    return lambda value: None if value >= least else f"must be at least {least}"


def above_zero(value: Any) -> str | None:
    """A rule: a positive number."""
    return None if value > 0 else "must be above 0"


def one_of(*names: str) -> Callable[[Any], str | None]:
    """Return a rule: one of `names`."""
    return lambda value: None if value in names else nearest(str(value), names)


def a_name(value: Any) -> str | None:
    """A rule: the name of a run, which its folder bears."""
    return None if str(value) not in ("", ".", "..") and not set(str(value)) & {"/", "\\", "\0"} else "is no file name"


def share(value: Any) -> str | None:
    """A rule: a number from 0 to 1."""
    return None if 0 <= value <= 1 else "is not a share: choose a value from 0 to 1"


def open_share(value: Any) -> str | None:
    """A rule: a number between 0 and 1."""
    return None if 0 < value < 1 else "must lie between 0 and 1"


def some_of(*names: str) -> Callable[[Any], str | None]:
    """Return a rule: a list of some of `names`."""

    def told(value: Any) -> str | None:
        wrong = [name for name in value if name not in names] if isinstance(value, ListConfig) else []
        return f"holds {wrong[0]}, which {nearest(str(wrong[0]), names)}" if wrong else None

    return told


def law(value: Any) -> str | None:
    """A rule: the name of a noise-shift law, or a positive number."""
    if type(value) in (int, float) and math.isfinite(value):
        return above_zero(value)
    told = one_of(*bdiff.defense.check.LAWS)(value)
    return f"{told}, or set a number" if told else None


def shares(value: Any) -> str | None:
    """A rule: falling numbers from 1 to 0."""
    numbers = isinstance(value, ListConfig) and value and all(type(one) in (int, float) for one in value)
    fits = numbers and value[0] <= 1 and value[-1] >= 0 and all(a > b for a, b in pairwise(value))
    return None if fits else "must be falling shares, as in [1.0,0.5]"


def rising(value: Any) -> str | None:
    """A rule: numbers from 0 up, each above the one before; at least one of them."""
    numbers = [*value] if isinstance(value, ListConfig) else []
    if not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
        return "must hold numbers alone"
    pairs = zip([-1.0, *numbers], numbers, strict=False)
    fits = numbers and all(one >= 0 and one > before for before, one in pairs)
    return None if fits or not isinstance(value, ListConfig) else "must be numbers from 0 up that rise, as in [0,0.5]"


def device(value: Any) -> str | None:
    """A rule: a device's name."""
    fits = re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(value))
    return None if fits else "is not known: choose from auto, cpu, cuda, cuda:N"


#: what a value must be like, beside having the type of the default it replaces; null values are not looked at
RULES: dict[str, Callable[[Any], str | None]] = {
    "name": a_name,
    "attack.poison_rate": share,
    "attack.poison_mode": one_of("replace", "append"),
    "data.size": at_least(8),
    "data.channels": one_of(1, 3),  # type: ignore[arg-type]
    "data.split": one_of("train", "test", "all"),
    "data.limit": at_least(2),
    "classifier.hold_out": open_share,
    "defense.adaptive.eot": at_least(1),
    "defense.adaptive.gradient": one_of("full", "bpda"),
    "defense.adaptive.steps": at_least(0),
    "defense.adversary.eps": above_zero,
    "defense.adversary.norm": one_of("linf", "l2"),
    "defense.adversary.step": above_zero,
    "defense.adversary.steps": at_least(1),
    "defense.alpha": open_share,
    "defense.at_once": at_least(1),
    "defense.batch": at_least(1),
    "defense.batch_size": at_least(1),
    "defense.bound": above_zero,
    "defense.budget": above_zero,
    "defense.clip_norm": above_zero,
    "defense.consistency": at_least(0),
    "defense.count": at_least(1),
    "defense.ddim_steps": at_least(1),
    "defense.gamma": at_least(0),
    "defense.law": law,
    "defense.lr": above_zero,
    "defense.n": at_least(1),
    "defense.n0": at_least(1),
    "defense.precision": one_of("auto", "bf16", "fp32"),
    "defense.probes": at_least(0),
    "defense.probe_draws": at_least(8),
    "defense.probe_rounds": at_least(1),
    "defense.radii": rising,
    "defense.refine_steps": at_least(0),
    "defense.removal.images": share,
    "defense.removal.keep": at_least(0),
    "defense.removal.unshift": at_least(0),
    "defense.restarts": at_least(1),
    "defense.samples": at_least(1),
    "defense.seed": at_least(0),
    "defense.share": share,
    "defense.shift": at_least(0),
    "defense.sigma": above_zero,
    "defense.spread": at_least(0),
    "defense.steps": at_least(1),
    "defense.strip.blends": at_least(0),
    "defense.strip.false_positive_rate": open_share,
    "defense.strip.weight": share,
    "defense.t": at_least(1),
    "defense.timesteps": shares,
    "defense.trim": at_least(0),
    "defense.votes": at_least(1),
    "defense.window": at_least(1),
    "metric.also": some_of(*ALSO),
    "metric.asr_threshold": above_zero,
    "metric.batch_size": at_least(1),
    "metric.fid.protocol": one_of(*PRESETS),
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
    "sweep.jobs_per_gpu": at_least(1),
    "surrogate.hold_out": open_share,
    "sweep.on_failure": one_of("continue", "stop"),
    "tracker.mode": one_of("auto", "online", "offline", "disabled"),
    "train.batch_size": at_least(1),
    "train.clip_norm": above_zero,
    "train.ema": share,
    "train.epochs": at_least(0),
    "train.lr": above_zero,
    "train.optimizer": one_of("adam", "adamw", "sgd"),
    "train.precision": one_of("auto", "bf16", "fp32"),
    "train.steps": at_least(0),
    "train.warmup": at_least(0),
    "train.weight_decay": at_least(0),
    "trigger.seed": at_least(0),
    "trigger.side": at_least(1),
}
#: what of a defense's settings an amplification reads
INVERSION = ("batch", "bound", "consistency", "law", "lr", "precision", "shift", "spread", "steps", "timesteps")
RULES |= {f"amplify.inversion.{name}": RULES[f"defense.{name}"] for name in INVERSION}
#: a classifier, the model that training starts from and repairs are trained by recipes of the same kind
RECIPES = ("", "classifier.", "surrogate.", "pretrain.", "defense.", "defense.removal.")
RULES |= {place + key: rule for place in RECIPES for key, rule in RULES.items() if key.startswith("train.")}

#: keys that may be null, and their type otherwise
OPTIONAL: dict[str, type] = {
    "classifier.model.path": str,
    "classifier.model.size": int,
    "classifier.weights": str,
    "data.limit": int,
    "data.path": str,
    "defense.threshold": float,
    "metric.asr_threshold": float,
    "metric.fid.reference": str,
    "metric.fid.weights": str,
    "metric.lpips_weights": str,
    "model.pretrained": str,
    "surrogate.model.path": str,
    "surrogate.model.size": int,
    "surrogate.weights": str,
    "target.path": str,
    "tracker.entity": str,
    "tracker.group": str,
    "train.clip_norm": float,
    "train.ema": float,
    "train.epochs": float,
    "train.steps": int,
    "trigger.path": str,
    "trigger.side": int,
}

OPTIONAL |= {place + key: kind for place in RECIPES for key, kind in OPTIONAL.items() if key.startswith("train.")}

#: keys whose values may be of another type than their default; their rules say which
MIXED = ("amplify.inversion.law", "defense.law")

CLIPPING = "bdiff.defense.clipping.Clipping"
REMOVAL = "bdiff.defense.removal.Removal"
SHIELDS = ("bdiff.defense.purification.Purification", "bdiff.defense.certification.Certification")

TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text (quote a number twice, as in name=\"'5'\")",
    ListConfig: "a list, as in [1,2]",
    DictConfig: "a group, as in {name:value}",
}


def nearest(word: str, known: Iterable[Any]) -> str:
    """Return "is not known" with the nearest spelling, if one is near, and what could have been said instead."""
    names = sorted(map(str, known))
    return f"is not known{did_you_mean(word, names)} (choose from {', '.join(names)})"


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return the question after the nearest of `names`, if one is near."""
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def leaves(config: DictConfig, prefix: str = "") -> dict[str, Any]:
    """Return every key of `config`, dotted, with its unresolved value."""
    found: dict[str, Any] = {}
    for name, value in config.items_ex(resolve=False):
        key = prefix + str(name)
        if isinstance(value, DictConfig) and not value._is_none() and value:
            found |= leaves(value, f"{key}.")
        else:
            found[key] = value
    return found


def value_problems(config: DictConfig, base: DictConfig) -> list[str]:
    """Return what is wrong with the values of a composed config, one by one and where parts meet.

    `base` is the same config before values were changed: its values say what type each should have.
    """
    if strangers := target_problems(config):  # then nothing of it is built, not even to be looked at
        return strangers
    before, now = leaves(base), leaves(config)
    changed = [key for key in before | now if before.get(key) != now.get(key) and not key.startswith("hydra.")]
    broken = {key: told for key in changed if (told := value_problem(key, config, base))}
    problems = list(broken.values())
    for keys, check in CHECKS:
        if not any(name.startswith(key) for name in broken for key in keys):
            problems += check(config)
    return problems


def value_problem(key: str, config: DictConfig, base: DictConfig) -> str | None:
    """Return how the value of `key` breaks its rule or differs in type from its default."""
    default = OmegaConf.select(base, key)
    try:
        value = OmegaConf.select(config, key, default=default)
    except OmegaConfBaseException as error:
        return f"{key}: {one_line(error)}"
    if value is None:
        return None if default is None or key in OPTIONAL else f"{key} cannot be null: its default is {default}"
    kind = OPTIONAL.get(key, type(default))
    try:
        told = RULES[key](value) if key in RULES else None
    except TypeError:  # it cannot even be compared; its type says why
        told = None
    told = told or (None if key in MIXED else type_problem(value, kind))
    return f"{key}={value} {told}" if told else None


def type_problem(value: Any, kind: type) -> str | None:
    """Return how `value` is not of the type `kind`, if that is one of `TYPE_NAMES`."""
    fits = type(value) is kind
    if kind is float:
        fits = type(value) in (int, float) and math.isfinite(value)
    return f"must be {TYPE_NAMES[kind]}" if kind in TYPE_NAMES and not fits else None


def path_problems(config: DictConfig) -> list[str]:
    """Return what is wrong with the images the request names."""
    return bdiff.data.check.problems(config.data.path)


def picture_problems(config: DictConfig) -> list[str]:
    """Return what is wrong with the trigger or the target: sizes that do not fit, files that hold no picture."""
    problems = []
    picture = empty(config.data.size)  # stands in for a trigger that cannot be had, so that the target is seen too
    try:
        picture = make(config.trigger, size=config.data.size)
    except (ValueError, TypeError, HydraException) as error:
        problems.append(one_line(error))
    try:
        make(config.target, size=config.data.size, trigger=picture)
    except (ValueError, TypeError, HydraException) as error:
        problems.append(one_line(error))
    return problems


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


def length_problems(config: DictConfig) -> list[str]:
    """Return that a training has no length."""
    recipes = {f"{place}train": OmegaConf.select(config, f"{place}train") for place in RECIPES}
    return [
        f"{name}.steps and {name}.epochs are both null: set one of them"
        for name, recipe in recipes.items()
        if recipe is not None and recipe.steps is None and recipe.epochs is None
    ]


def sampler_problems(config: DictConfig) -> list[str]:
    """Return what the sampler cannot do."""
    problems = []
    clips = {"sample.clip=true": config.sample.clip, "defense=clipping": config.defense._target_ == CLIPPING}
    for option, asked in clips.items():
        if asked and "clip_sample" not in config.sampler.scheduler:
            problems.append(f"{option} works with sampler=ddpm and sampler=ddim only")
    if config.sample.steps > config.schedule.num_train_timesteps:
        problems.append(
            f"sample.steps={config.sample.steps} is more than the schedule's {config.schedule.num_train_timesteps}"
        )
    return problems


def defense_problems(config: DictConfig) -> list[str]:
    """Return what of a defense or an amplification does not fit the schedule, or the samples that are drawn."""
    found = {place: OmegaConf.select(config, place) for place in ("defense", "amplify.inversion")}
    methods: Any = {place: OmegaConf.to_container(part, resolve=True) for place, part in found.items() if part}
    problems = bdiff.defense.check.sample_problems(methods["defense"], config.sample.count)
    for place, method in methods.items():
        problems += bdiff.defense.check.schedule_problems(method, place, config.schedule.num_train_timesteps)
    return problems


def metric_problems(config: DictConfig) -> list[str]:
    """Return which measures cannot be taken of what the request makes, or lack a file."""
    metric: dict[str, Any] = OmegaConf.to_container(config.metric, resolve=True)  # type: ignore[assignment]
    return bdiff.metric.check.problems(metric, config.data.size)


def classifier_problems(config: DictConfig) -> list[str]:
    """Return which files of classifiers' weights are not there."""
    keys = [f"{name}.{key}" for name in ("classifier", "surrogate") for key in ("weights", "model.path")]
    given = {key: OmegaConf.select(config, key) for key in keys}
    return [
        f"{key}={path} does not exist" for key, path in given.items() if path and not Path(path).expanduser().is_file()
    ]


def image_problems(config: DictConfig) -> list[str]:
    """Return that `defense.images` is no number of test images, for a shield, or for a repair no share of the data."""
    images = OmegaConf.select(config, "defense.images")
    if type(images) not in (int, float):  # none, or an added one of a type that nobody reads
        return []
    told = (at_least(1) if config.defense._target_ in SHIELDS else share)(images)
    return [f"defense.images={images} {told}"] if told else []


def shield_problems(config: DictConfig) -> list[str]:
    """Return how a shield does not fit the schedule of its denoiser, or is in itself impossible."""
    if config.defense._target_ not in SHIELDS:
        return []
    from bdiff.stage.suspect import method  # which imports torch: this request will need it anyway

    problems = []
    try:
        method(config.defense).check(make(config.schedule))
    except (ValueError, TypeError, HydraException) as error:
        problems.append(one_line(error))
    if config.defense.repair and config.defense.removal._target_ == REMOVAL:
        problems.append("defense.repair=true: this repair needs a trigger: use defense/removal=finetune")
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


def launcher_problems(config: DictConfig) -> list[str]:
    """Return that a sweep's launcher is not installed."""
    target = str(OmegaConf.select(config, "hydra.launcher._target_", default=""))
    plugin = re.match(r"hydra_plugins\.(hydra_\w+_launcher)\.", target)
    if plugin is None or find_spec(f"hydra_plugins.{plugin[1]}"):
        return []
    name = plugin[1].replace("_", "-")
    return [f"hydra/launcher={config.hydra.runtime.choices['hydra/launcher']} needs {name}: pip install {name}"]


def target_problems(config: DictConfig) -> list[str]:
    """Return which parts the config names that it may not."""
    parts = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    return [line for key, target in targets(parts) if (line := foreign(key, target))]


#: checks of what parts of a request make together, each left out when one of the keys it reads is wrong by itself
CHECKS: list[tuple[tuple[str, ...], Callable[[DictConfig], list[str]]]] = [
    (("data.path",), path_problems),
    (("data.size", "data.channels", "trigger.", "target."), picture_problems),
    (("data.size", "data.channels", "model.", "schedule."), model_problems),
    (("train.", "classifier.train.", "surrogate.train.", "pretrain.train.", "defense."), length_problems),
    (("sample.", "sampler.", "schedule.", "defense."), sampler_problems),
    (("sample.", "schedule.", "defense.", "amplify."), defense_problems),
    (("metric.", "data.size"), metric_problems),
    (("classifier.", "surrogate."), classifier_problems),
    (("defense.images",), image_problems),
    (("defense.", "schedule."), shield_problems),
    (("runtime.device",), device_problems),
    (("hydra.launcher",), launcher_problems),
]


def one_line(error: BaseException) -> str:
    """Return what an error says, without what Hydra and OmegaConf add about their insides."""
    text = str(error).partition("Config search path")[0]
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("full_key", "object_type")))
