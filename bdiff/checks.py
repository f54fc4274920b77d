"""The checks of a request, its values one by one and its parts together, before torch is imported."""

import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import bdiff.data.check
import bdiff.defense.check
import bdiff.metric.check
import bdiff.model.architecture
import bdiff.model.check
from bdiff import schedulers
from bdiff.draw import empty
from bdiff.keys import leaves
from bdiff.make import foreign, make, targets
from bdiff.places import folder_problems, home_problems, no_file, shown
from bdiff.report.shields import CERTIFICATION, PURIFICATION
from bdiff.rules import MIXED, OPTIONAL, RECIPES, RULES, at_least, share, type_problem
from bdiff.steps import step_problem

CLIPPING = "bdiff.defense.clipping.Clipping"
REMOVAL = "bdiff.defense.removal.Removal"
SMALL_CNN = "bdiff.classifier.small_cnn.SmallCNN"
#: what torchrun sets; with a part of it processes wait for each other for ever
TORCHRUN = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
#: what MPI's launchers set, which Accelerate would follow
MPI = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
SHIELDS = (PURIFICATION, CERTIFICATION)


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
    for keys, check in CHECKS:
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
    if told := bdiff.model.architecture.problems(unet):
        return told
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
    if all(clips.values()):
        problems.append("sample.clip=true clips already, and defense=clipping would change no sample: use one of them")
    scheduler: Any = OmegaConf.to_container(config.sampler.scheduler, resolve=True)
    schedule: Any = OmegaConf.to_container(config.schedule, resolve=True)
    if told := schedulers.problems(scheduler, schedule):
        return problems + told
    if line := step_problem(scheduler, config.sample.steps, schedule):
        problems.append(line)
    return problems


def schedule_problems(config: DictConfig) -> list[str]:
    """Return what is wrong with the noise of the schedule."""
    schedule: Any = OmegaConf.to_container(config.schedule, resolve=True)
    return schedulers.noise_problems(schedule)


def defense_problems(config: DictConfig) -> list[str]:
    """Return what of a defense or an amplification does not fit the schedule, or the samples that are drawn."""
    found = {place: OmegaConf.select(config, place) for place in ("defense", "amplify.inversion")}
    methods: Any = {place: OmegaConf.to_container(part, resolve=True) for place, part in found.items() if part}
    drawn = min(config.sample.count, config.sample.get("triggered", config.sample.count))
    return bdiff.defense.check.problems(methods, drawn, config.schedule.num_train_timesteps)


def metric_problems(config: DictConfig) -> list[str]:
    """Return which measures cannot be taken of what the request makes, or lack a file."""
    metric: dict[str, Any] = OmegaConf.to_container(config.metric, resolve=True)  # type: ignore[assignment]
    return bdiff.metric.check.problems(metric, config.data.size)


def classifier_problems(config: DictConfig) -> list[str]:
    """Return which files of classifiers' weights are not there."""
    keys = [f"{name}.{key}" for name in ("classifier", "surrogate") for key in ("weights", "model.path")]
    given = {key: OmegaConf.select(config, key) for key in keys}
    return [f"{key}={path} {why}" for key, path in given.items() if path and (why := no_file(Path(path).expanduser()))]


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
    if OmegaConf.select(config, "defense.adversary.method") == "apgd" and find_spec("pyautoattack") is None:
        problems.append("defense.adversary.method=apgd needs pyautoattack: pip install 'bdiff[attacks]'")
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


def process_problems(config: DictConfig) -> list[str]:
    """Return what is wrong with the processes that the environment speaks of: torchrun's, or left over from it."""
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
    wrong = [name for name in (*names, "MASTER_PORT") if not os.environ.get(name, "0").isdigit()]
    if wrong:
        return [f"{wrong[0]}={os.environ[wrong[0]]} in the environment is no number: torchrun sets it, or unset it"]
    others = [name for name in MPI if os.environ.get(name, "1") != "1" and "WORLD_SIZE" not in os.environ]
    if others:
        return [f"{others[0]} is in the environment, and bdiff knows no MPI: use torchrun, or unset {others[0]}"]
    given, missing = ([name for name in TORCHRUN if (name in os.environ) is there] for there in (True, False))
    if missing and (left := [name for name in names if name in given]):
        return [f"{left[0]} is in the environment without {', '.join(missing)}: use torchrun, or unset {left[0]}"]
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if rank >= world:
        return [f"RANK={rank} in the environment is none of WORLD_SIZE={world} processes: use torchrun, or unset both"]
    sizes = {f"{place}train.batch_size": OmegaConf.select(config, f"{place}train.batch_size") for place in RECIPES}
    apart = {f"{name}.train.batch_size" for name in ("classifier", "surrogate") if not shares_batches(config, name)}
    return [
        f"{key}={size} cannot be split over WORLD_SIZE={world} processes: choose a multiple of {world}"
        for key, size in sizes.items()
        if size is not None and key not in apart and world > 1 and size % world
    ]


def shares_batches(config: DictConfig, name: str) -> bool:
    """Return whether several processes train the classifier `name` together: those with BatchNorm one trains alone."""
    return OmegaConf.select(config, f"{name}.model._target_") == SMALL_CNN


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
    (("name", "paths.", "hydra."), folder_problems),
    (("data.path",), path_problems),
    (("data.size", "data.channels", "trigger.", "target."), picture_problems),
    (("data.size", "data.channels", "model.", "schedule."), model_problems),
    (("schedule.",), schedule_problems),
    (("train.", "classifier.train.", "surrogate.train.", "pretrain.train.", "defense."), length_problems),
    (("sample.", "sampler.", "schedule.", "defense."), sampler_problems),
    (("sample.", "schedule.", "defense.", "amplify."), defense_problems),
    (("metric.", "data.size"), metric_problems),
    (("classifier.", "surrogate."), classifier_problems),
    (("defense.images",), image_problems),
    (("defense.", "schedule."), shield_problems),
    (("runtime.device",), device_problems),
    (("hydra.launcher",), launcher_problems),
    (("train.", "classifier.", "surrogate.", "pretrain.", "defense."), process_problems),
]


def one_line(error: BaseException) -> str:
    """Return what an error says, without what Hydra and OmegaConf add about their insides."""
    text = str(error).partition("Config search path")[0]
    lines = [line.strip() for line in text.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("full_key", "object_type")))
