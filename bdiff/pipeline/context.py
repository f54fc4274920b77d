"""What the stages of an experiment share: the parts built from its config, the device, keys and locks."""

import inspect
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from bdiff.attack.base import Attack
from bdiff.common.device import open_device, resolve_precision, spare
from bdiff.common.errors import RequestError
from bdiff.common.pickles import first_line
from bdiff.common.spelling import nearest
from bdiff.common.versions import VERSION
from bdiff.config.instantiate import make
from bdiff.data.base import Images, TensorImages
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.schedulers import start_marks
from bdiff.diffusion.steps import class_of, first_timestep
from bdiff.diffusion.training import Loop
from bdiff.metric.fid import moments
from bdiff.metric.fid.base import Features
from bdiff.metric.fid.images import reference_images
from bdiff.metric.fid.protocol import PRESETS
from bdiff.metric.names import OVER_FEATURES
from bdiff.model import checkpoint
from bdiff.store import artifacts, provenance, threads
from bdiff.store.artifacts import Stage
from bdiff.target.base import to_target
from bdiff.tracker.none import NoTracker
from bdiff.trigger.base import Trigger

if TYPE_CHECKING:
    from bdiff.metric.lpips import Lpips

log = logging.getLogger(__name__)

#: where recipes of training stand, beside the suspect's and its classifier's
RECIPES = ("surrogate", "pretrain", "defense", "defense.removal")
#: what the sampling loop gives a scheduler's step() itself
STEP = ("model_output", "timestep", "sample", "generator", "variance_noise", "noise", "return_dict")
#: the features that have to be trained before they can be used
CLASSIFIER_FID = "bdiff.metric.fid.classifier.ClassifierFeatures"


def plain(config: DictConfig) -> Any:
    """Return a config node as plain resolved containers."""
    return OmegaConf.to_container(config, resolve=True)


def without(config: DictConfig, *names: str) -> dict[str, Any]:
    """Return a config node as plain resolved containers, without some of its keys."""
    return {key: value for key, value in plain(config).items() if key not in names}


def extractor(fid: DictConfig) -> DictConfig:
    """Return what of conf/metric/fid makes its features, without what says how the distance is taken over them."""
    return OmegaConf.masked_copy(fid, [str(key) for key in fid if key not in ("protocol", "reference")])


def resolve_precisions(config: DictConfig, device: torch.device) -> None:
    """Set every precision of a request that is auto to what that means on `device`."""
    recipes = [OmegaConf.select(config, f"{name}.train") for name in RECIPES]
    others = [config.defense, OmegaConf.select(config, "amplify.inversion")]
    for part in (config.train, config.sample, config.classifier.train, *recipes, *others):
        if part is not None and "precision" in part:
            part.precision = resolve_precision(part.precision, device)


def resolve_threshold(config: DictConfig, data: str) -> str | None:
    """Set an audit's threshold that is auto to the calibrated one, or to null where that holds for others alone.

    Returns why it is null then.
    """
    if OmegaConf.select(config, "defense.threshold") != "auto":
        return None
    calibration = plain(config.defense.calibration)
    threshold = calibration.pop("threshold")
    calibration |= {f"defense.{name}": value for name, value in calibration.pop("settings").items()}
    here = plain(config.data) | plain(config.schedule)
    here |= {f"defense.{name}": value for name, value in plain(config.defense).items()}
    here["data"] = data if config.data.path is None else str(config.data.path)
    other = [f"{name}={value} (here {here[name]})" for name, value in calibration.items() if here[name] != value]
    config.defense.threshold = None if other else threshold
    return f"the threshold {threshold} is calibrated on {', '.join(other)}: set defense.threshold" if other else None


def check_start(scheduler: Any, config: dict[str, Any], steps: int) -> None:
    """Raise RequestError unless `scheduler` starts where `config` lets one expect and keeps to the schedule.

    `bdiff.diffusion.steps` says what a sampler can do before torch is imported; this asks the sampler itself.
    """
    scheduler.set_timesteps(steps)
    t = scheduler.timesteps
    wanted = first_timestep(config, steps, scheduler.config.num_train_timesteps)
    if t[0] != wanted or t.min() < 0:
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
        told = [f"sampler.scheduler.{name} {nearest(name, taken)}" for name in new]
        raise RequestError(*(told or [f"sampler.scheduler cannot be made so ({first_line(error)})"])) from error
    options = [name for name in inspect.signature(scheduler.step).parameters if name not in STEP]
    if wrong := [name for name in plain(config.step) if name not in options]:
        has = f"has {', '.join(options) or 'none'}"
        raise RequestError(f"sampler.step.{wrong[0]} is no option of {type(scheduler).__name__}.step(), which {has}")
    return scheduler


def perceptual(weights: str | None) -> "Lpips":
    """Return LPIPS over the network in the file `weights`. Raises RequestError if it cannot be had."""
    from bdiff.metric.lpips import Lpips  # imported where it is asked for: it takes long

    return Lpips(weights)


class Experiment:
    """A request with everything small built from it: what the stages share.

    Raises RequestError before anything is trained if a part cannot be had.
    """

    def __init__(self, config: DictConfig, tracker: NoTracker):
        self.config, self.tracker = config, tracker
        self.accelerator = open_device(config.runtime.device)
        self.device = self.accelerator.device
        self.root = Path(config.paths.outputs)
        self.seconds: dict[str, float] = {}
        self.keys: dict[str, str] = {}
        self.reused: list[str] = []
        self.started = False  # whether any stage had to be built
        #: by the name of every stage that was met, reused or not: what made it
        self.provenance: dict[str, dict[str, Any]] = {}
        self.code = provenance.code()
        self.clock: artifacts.Clock  # of the stage that is being built
        resolve_precisions(config, self.device)  # before any key is made of them
        self.schedule: Schedule = make(config.schedule)
        for mark in start_marks(plain(config.schedule)):
            log.warning("schedule: %s", mark)
        self.scheduler = sampler(config.sampler, self.schedule, config.sample.steps)
        runtime = plain(config.runtime)
        self.loop = Loop(**{name: runtime[name] for name in Loop.__dataclass_fields__})
        self.features: Features | None = None
        self.needs_classifier = config.metric.fid._target_ == CLASSIFIER_FID
        if config.metric.fid._target_ and not self.needs_classifier:
            self.features = make(extractor(config.metric.fid))
        self.published: str | None = OmegaConf.select(config, "metric.fid.reference")
        if self.features and self.published:
            moments.read(self.published, self.features.num_features)
        self.lpips = perceptual(config.metric.lpips_weights) if "lpips" in config.metric.also else None
        if config.model.pretrained is not None:
            checkpoint.examine(config.model.pretrained, plain(config.model.unet), self.schedule)
        began = time.monotonic()
        #: loads the run's data, or others of the same kind: `load(split="test")`
        self.load: Callable[..., Images] = partial(
            make,
            config.data,
            cache=Path(config.paths.cache).expanduser(),
            seed=config.seed,
            memory=config.runtime.memory,
        )
        self.images: Images = self.load()
        self.reference_images: Images | None = None
        if config.metric.fid._target_ and (self.published is None or {*OVER_FEATURES} & {*config.metric.also}):
            split = PRESETS[config.metric.fid.protocol].split
            self.reference_images = reference_images(self.images, split, lambda split: self.load(split=split))
        self.unflagged = resolve_threshold(config, self.images.name)
        self.seconds["data"] = round(time.monotonic() - began, 3)
        if (against := self.reference_images) is not None and len(against) < 2 and self.published is None:
            raise RequestError(
                f"{against.name} {against.split} has one image, which has no covariance: use metric/fid=none, or set "
                "metric.fid.protocol to one whose reference is another split"
            )
        if self.needs_classifier and self.images.of_one_class:
            raise RequestError(
                f"data {self.images.name} has one class, so it trains no classifier: use metric/fid=inception or none"
            )
        channels, size = self.images.shape[:2]
        picture = make(config.trigger, size=size)
        self.trigger = Trigger.from_picture(picture, channels)
        self.target = to_target(make(config.target, size=size, trigger=picture), channels)
        # Keys are made of the pictures themselves, not of where they were read from.
        self.pictures = {
            "trigger": artifacts.content(self.trigger.pattern, self.trigger.mask),
            "target": artifacts.content(self.target),
        }
        try:
            self.attack: Attack = make(config.attack, trigger=self.trigger, target=self.target)
            self.attack.check(self.schedule)
            self.attack.check_rows(self.images.labels)
            self.attack.to(self.device)
        except ValueError as error:
            raise RequestError(str(error)) from error
        if self.attack.needs_surrogate and self.images.of_one_class:
            raise RequestError(f"data {self.images.name} has one class, so there is no classifier to attack")
        if self.attack.learn and config.model.pretrained is None and config.pretrain.train is None:
            raise RequestError(
                f"attack.learn={self.attack.learn} needs a denoiser that training starts from: use pretrain=digits, or "
                "another of conf/pretrain, or set model.pretrained"
            )
        if config.amplify._target_ and not self.attack.starts_samples:
            raise RequestError("amplify is for triggers in a sample's starting noise, and this attack has none there")
        if self.attack.poison_rate > 0 and not self.attack.opens(
            self.schedule, config.sample.steps, config.sampler.ode
        ):
            log.warning(
                "%s is not made for %s in %d steps: expect an ASR near 0",
                type(self.attack).__name__,
                "ODE samplers" if config.sampler.ode else "ancestral samplers",
                config.sample.steps,
            )

    def stage(self, name: str, **parts: Any) -> Stage:
        """Return the stage `name` made from `parts`."""
        return artifacts.stage(self.root, name, VERSION[name], **parts)

    @contextmanager
    def building(self, stage: Stage, name: str | None = None) -> Iterator[bool]:
        """Hold the stage's lock on behalf of all processes; yields whether it still has to be built.

        The run's record calls it `name`, where one run has several stages of a kind.
        """
        name = name or stage.name
        main = self.accelerator.is_main_process
        with artifacts.lock(stage.folder.with_suffix(".lock")) if main else nullcontext():
            if main and stage.manifest is None:  # before the others may write there
                artifacts.sweep(stage.folder)
                (stage.folder / "manifest.json").unlink(missing_ok=True)  # a damaged one
                threads.begin(stage.folder)
            self.accelerator.wait_for_everyone()
            if stage.manifest is None:
                self.started = True
                with threads.kept(stage.folder), artifacts.Clock(stage.folder, main) as self.clock:
                    yield True
            else:
                if name not in self.keys:  # or it was met earlier in this run
                    log.info("%s: reused %s", name, stage.folder)
                    self.reused.append(name)
                yield False
            self.accelerator.wait_for_everyone()
        finished = stage.manifest
        assert finished is not None, f"{stage.name} left no manifest"
        self.keys[name], self.seconds[name] = stage.key, finished["seconds"]
        about = {what: finished[what] for what in ("key", "seconds", "finished")}
        self.provenance[name] = about | finished.get("made_by", {})  # which manifests of before lack

    def record(self, name: str, row: dict[str, Any]) -> None:
        """Pass a row of the history of the training `name` on to the tracker."""
        self.tracker.log({f"{name}/{what}": value for what, value in row.items()}, row["step"])

    def finish(self, stage: Stage, **facts: Any) -> None:
        """Write the manifest of the stage that is being built, with what made it; by the first process."""
        if self.accelerator.is_main_process:
            made = {
                **self.code,
                "versions": provenance.versions(),
                "device": provenance.device_name(self.device),
                "precision": provenance.precision_of(stage.parts),
                "threads": torch.get_num_threads(),
                "processes": self.accelerator.num_processes,
            }
            stage.finish(self.clock.seconds, made_by=made, **facts)


def resident(images: Images, device: torch.device) -> Images:
    """Return `images` with their pixels on `device`, unless they would take over a quarter of its free memory."""
    large = isinstance(images, TensorImages) and device.type == "cuda" and images.pixels.nbytes > spare(device)
    return images if large else images.to(device)
