"""The parts of an experiment, each made from its section of the config and checked before anything is trained."""

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from bdiff.attack.base import Attack
from bdiff.common.device import resolve_precision, spare
from bdiff.common.errors import RequestError, named
from bdiff.common.pickles import first_line
from bdiff.common.places import is_file
from bdiff.common.spelling import nearest
from bdiff.config.instantiate import made_of, make
from bdiff.config.keys import plain
from bdiff.config.options import own_settings
from bdiff.data.base import Images, TensorImages
from bdiff.diffusion.check import TRAININGS
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.schedulers import start_marks
from bdiff.diffusion.steps import class_of, first_timestep
from bdiff.diffusion.training import TrainConfig
from bdiff.metric.fid import moments
from bdiff.metric.fid.base import Features
from bdiff.metric.fid.images import reference_images
from bdiff.metric.fid.protocol import PRESETS
from bdiff.metric.names import OVER_FEATURES
from bdiff.metric.weights import file_hash
from bdiff.pipeline.family import eta_of
from bdiff.store import artifacts
from bdiff.target.base import FLOOR, to_target
from bdiff.trigger.base import Trigger

if TYPE_CHECKING:
    from bdiff.metric.lpips import Lpips

log = logging.getLogger(__name__)

#: what the sampling loop gives a scheduler's step() itself
STEP = ("model_output", "timestep", "sample", "generator", "variance_noise", "noise", "return_dict")
#: the features that have to be trained before they can be used
CLASSIFIER_FID = "bdiff.metric.fid.classifier.ClassifierFeatures"


def without(config: DictConfig, *names: str) -> dict[str, Any]:
    """Return a config node as plain resolved containers, without some of its keys."""
    return {key: value for key, value in plain(config).items() if key not in names}


def train_config(config: DictConfig) -> TrainConfig:
    """Return a node of conf/train."""
    return TrainConfig(**plain(config))


def resolve_precisions(config: DictConfig, device: torch.device) -> None:
    """Set every precision of a request that is auto to what that means on `device`."""
    trainings = [OmegaConf.select(config, f"{place}train") for place in TRAININGS]
    inversions = [OmegaConf.select(config, f"{place}.inversion") for place in ("amplify", "defense")]
    others = [config.sample, config.defense, *inversions]
    for part in (*trainings, *others):
        if part is not None and "precision" in part:
            part.precision = resolve_precision(part.precision, device)


def check_start(scheduler: Any, config: dict[str, Any], steps: int) -> None:
    """Raise RequestError unless `scheduler` starts where `config` lets one expect and keeps to the schedule.

    `bdiff.diffusion.steps` says what a sampler can do before torch is imported; this asks the sampler itself.
    """
    scheduler.set_timesteps(steps)
    t = scheduler.timesteps
    first = first_timestep(config, steps, scheduler.config.num_train_timesteps)
    if t[0] != first or t.min() < 0:
        raise RequestError(f"sample.steps={steps}: {class_of(config)} goes from t={t[0]:g} to {t[-1]:g}: use another")


def sampler(config: DictConfig, schedule: Schedule, steps: int) -> Any:
    """Return the scheduler of conf/sampler's `config` over `schedule`, set to what it draws samples with.

    Raises RequestError where it cannot be made so, takes other steps, or its step() has no such options.
    """
    given = without(config.scheduler, "_target_")
    try:
        scheduler = make(config.scheduler, **schedule.config)
        check_start(scheduler, plain(config.scheduler), steps)
    except (TypeError, ValueError, NotImplementedError, ImportError) as error:
        taken = inspect.signature(get_class(config.scheduler._target_)).parameters
        new = [name for name in given if name not in taken and isinstance(error, TypeError)]
        problems = [f"sampler.scheduler.{name} {nearest(name, taken)}" for name in new]
        raise RequestError(*(problems or [f"sampler.scheduler cannot be made so ({first_line(error)})"])) from error
    options = [name for name in inspect.signature(scheduler.step).parameters if name not in STEP]
    if wrong := [name for name in plain(config.step) if name not in options]:
        has = f"has {', '.join(options) or 'none'}"
        raise RequestError(f"sampler.step.{wrong[0]} is no option of {type(scheduler).__name__}.step(), which {has}")
    return scheduler


def perceptual(weights: str | None) -> "Lpips":
    """Return LPIPS over the network in the file `weights`. Raises RequestError if it cannot be had."""
    from bdiff.metric.lpips import Lpips  # imported where it is asked for: it takes long

    return Lpips(weights)


def schedule(config: DictConfig) -> Schedule:
    """Return the noise schedule, and say where it ends far from noise."""
    for mark in start_marks(plain(config.schedule)):
        log.warning("schedule: %s", mark)
    made: Schedule = make(config.schedule)
    return made


@dataclass(frozen=True)
class Measures:
    """What samples are measured with."""

    features: Features | None  # that a Fréchet distance is taken over; None too where they are a classifier's
    needs_classifier: bool  # which is then trained first
    published: str | None  # a file of statistics in the place of reference images
    lpips: "Lpips | None"


def measures(
    config: DictConfig, made: Callable[..., Features] = made_of, lpips_of: Callable[..., "Lpips"] = perceptual
) -> Measures:
    """Return what samples are measured with: features `made` of conf/metric/fid, and LPIPS of its file.

    Raises RequestError where weights or statistics cannot be had.
    """
    needs = config.metric.fid._target_ == CLASSIFIER_FID
    features: Features | None = made(config.metric.fid) if config.metric.fid._target_ and not needs else None
    published: str | None = OmegaConf.select(config, "metric.fid.reference")
    if features and published:
        moments.read(published, features.num_features)
    lpips = lpips_of(config.metric.lpips_weights) if "lpips" in config.metric.also else None
    return Measures(features, needs, published, lpips)


@dataclass(frozen=True)
class Data:
    """The run's images, and those that samples are held against."""

    images: Images
    limit: int | None  # images that are taken of the data at most
    load: Callable[..., Images]  # the run's data, or others of the same kind: `load(split="test")`
    reference: Images | None
    foreign: "Data | None" = None  # that the attack shows too


def data(config: DictConfig, measures: Measures, made: Callable[..., Images] = make) -> Data:
    """Return the images, `made` of conf/data.

    Raises RequestError where they cannot be had, or do not suit what is measured.
    """
    cache, memory = Path(config.paths.cache).expanduser(), config.runtime.memory
    here: dict[str, Any] = {"cache": cache, "seed": config.seed, "memory": memory}
    load: Callable[..., Images] = partial(made, config.data, **here)
    images, against = load(), None
    if config.metric.fid._target_ and (measures.published is None or {*OVER_FEATURES} & {*config.metric.also}):
        split = PRESETS[config.metric.fid.protocol].split
        against = reference_images(images, split, lambda split: load(split=split))
    if against is not None and len(against) < 2 and measures.published is None:
        raise RequestError(
            f"{against.name} {against.split} has one image, which has no covariance: use metric/fid=none, or set "
            "metric.fid.protocol to one whose reference is another split"
        )
    if measures.needs_classifier and images.of_one_class:
        raise RequestError(
            f"data {images.name} has one class, so it trains no classifier: use metric/fid=inception or none"
        )
    return Data(images, config.data.limit, load, against, foreign_data(config, partial(made, **here)))


def foreign_data(config: DictConfig, made: Callable[..., Images]) -> Data | None:
    """Return the data that the attack's setting `foreign` names, in the size and channels of the run's; None without.

    They are of conf/data's settings, but for the place that `foreign_path` gives.
    """
    name = OmegaConf.select(config, "attack.foreign")
    if name is None:
        return None
    settings = own_settings("data", name)
    settings.size, settings.channels = config.data.size, config.data.channels
    settings.path = config.attack.foreign_path or settings.path

    def load(**changes: Any) -> Images:
        with named("data.path", "attack.foreign_path"):
            return made(settings, **changes)

    return Data(load(), settings.limit, load, None)


@dataclass(frozen=True)
class Pictures:
    """The trigger and the target of a run."""

    trigger: Trigger
    target: Tensor  # (C,H,W) in [-1,1]
    files: dict[str, str] = field(default_factory=dict)  # the SHA-256 of the file that either was read from

    @cached_property
    def keys(self) -> dict[str, str]:
        """What keys say of trigger and target: the pictures themselves, wherever they were read from."""
        trigger = artifacts.content(self.trigger.pattern, self.trigger.mask)
        return {"trigger": trigger, "target": artifacts.content(self.target)}


def pictures(config: DictConfig, shape: tuple[int, ...]) -> Pictures:
    """Return the trigger and the target for images of a shape (C,H,W)."""
    channels, size = shape[:2]
    picture = make(config.trigger, size=size)
    target = to_target(make(config.target, size=size, trigger=picture), channels)
    if (target - FLOOR).abs().max() < 0.01:
        log.warning("the target shows nothing: on this data all of it is as dark as its background, %g", FLOOR)
    paths = {part: Path(OmegaConf.select(config, f"{part}.path") or "") for part in ("trigger", "target")}
    files = {part: file_hash(path) for part, path in paths.items() if is_file(path)}
    return Pictures(Trigger.from_picture(picture, channels), target, files)


def attack(config: DictConfig, pictures: Pictures, data: Data, schedule: Schedule) -> Attack:
    """Return the attack. Raises RequestError where it does not fit the data, the schedule or the rest."""
    images = data.images
    try:
        made: Attack = made_of(config.attack, trigger=pictures.trigger, target=pictures.target)
        made.read_data(images, data.foreign.images if data.foreign else None)
        made.check(schedule)
        made.check_rows(images.labels)
    except ValueError as error:
        raise RequestError(str(error)) from error
    if made.needs_surrogate and images.of_one_class:
        raise RequestError(f"data {images.name} has one class, so there is no classifier to attack")
    if made.label is not None and made.others is None and images.of_one_class:
        raise RequestError(f"data {images.name} has one class, so every sample is of the class that is the target")
    return made


def opens(attack: Attack, schedule: Schedule, config: DictConfig) -> bool:
    """Return whether the run's sampler is expected to open the backdoor, and warn of one that is not."""
    if attack.poison_rate == 0:
        return False
    steps, eta = config.sample.steps, eta_of(config.sampler)
    expected = attack.opens(schedule, steps, eta)
    if not expected:
        samplers = {0.0: "ODE samplers", 1.0: "ancestral samplers"}.get(eta, f"samplers with eta={eta:g}")
        log.warning("the attack is not made for %s in %d steps: expect an ASR near 0", samplers, steps)
    return expected


def resident(images: Images, device: torch.device) -> Images:
    """Return `images` with their pixels on `device`, unless they would take over a quarter of its free memory."""
    large = isinstance(images, TensorImages) and device.type == "cuda" and images.pixels.nbytes > spare(device)
    return images if large else images.to(device)
