"""The experiment: a request, and everything small that is built from it. `main.py` takes it through its stages."""

import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from bdiff.attack.base import Attack
from bdiff.config.keys import plain
from bdiff.data.base import Images
from bdiff.diffusion.mode import Costs
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.training import LoopConfig, TrainConfig
from bdiff.model import checkpoint
from bdiff.pipeline import prepare
from bdiff.pipeline.prepare import Data, Measures, Pictures, train_config
from bdiff.pipeline.sample import SampleKind, Sampling, sample_kinds
from bdiff.pipeline.stages import Stages
from bdiff.pipeline.suspect import Diffusion
from bdiff.pipeline.threshold import Threshold, resolve_threshold
from bdiff.pipeline.train import TrainingSetup, prediction, training_marks
from bdiff.tracker.none import NoTracker


@dataclass
class Subject:
    """What is known wherever a model is drawn from: a request, and how its stages are kept and its images drawn."""

    config: DictConfig
    stages: Stages
    diffusion: Diffusion
    sampling: Sampling


@dataclass
class Experiment(Subject):
    """A request with its parts, from which every stage is given the few that it needs."""

    measures: Measures
    data: Data
    pictures: Pictures  # another trigger once the attack has learned one
    attack: Attack
    opens: bool  # whether the sampler is expected to open the attack's backdoor
    threshold: Threshold  # of a detection

    @property
    def images(self) -> Images:
        """The images of training."""
        return self.data.images

    @property
    def train(self) -> TrainConfig:
        """How the suspect is trained."""
        return train_config(self.config.train)

    @property
    def setup(self) -> TrainingSetup:
        """What all trainings of a denoiser have in common."""
        about = {part: plain(self.config[part]) for part in ("trigger", "target", "data")}
        unet = plain(self.config.model.unet)
        return TrainingSetup(unet, self.diffusion, self.images, self.pictures, self.config.seed, about)

    @property
    def kinds(self) -> dict[str, SampleKind]:
        """The kinds of samples that a model is judged by."""
        return sample_kinds(self.attack, self.pictures)

    @cached_property
    def marks(self) -> list[str]:
        """What casts doubt on the suspect's training."""
        config, schedule = self.config, self.diffusion.schedule
        predicted = prediction(config.model, self.stages.planning)
        return training_marks(self.attack, self.images.labels, self.train, config.seed, schedule, predicted)


def opened(config: DictConfig, tracker: NoTracker, kind: type[Stages] = Stages) -> Stages:
    """Return the stages of a request, whose precisions are settled before any key is made of them."""
    costs = Costs(Path(config.paths.cache).expanduser() / "compiled")
    stages = kind(Path(config.paths.outputs), config.runtime.device, tracker, loop_config(config.runtime), costs)
    prepare.resolve_precisions(config, stages.device)
    return stages


def build_experiment(config: DictConfig, tracker: NoTracker) -> Experiment:
    """Return the request with its parts.

    Raises RequestError before anything is trained if a part cannot be had.
    """
    stages = opened(config, tracker)
    schedule = prepare.schedule(config)
    scheduler = prepare.sampler(config.sampler, schedule, config.sample.steps)
    measures = prepare.measures(config)
    if config.model.pretrained is not None:
        checkpoint.examine(config.model.pretrained, plain(config.model.unet), schedule)
    began = time.monotonic()
    data = prepare.data(config, measures)
    stages.seconds["data"] = round(time.monotonic() - began, 3)
    return assembled(config, stages, schedule, scheduler, measures, data)


def assembled(
    config: DictConfig, stages: Stages, schedule: Schedule, scheduler: Any, measures: Measures, data: Data
) -> Experiment:
    """Return the request with its parts, of which these are made."""
    threshold = resolve_threshold(config, str(config.data.path or data.images.name))
    pictures = prepare.pictures(config, data.images.shape)
    attack = prepare.attack(config, pictures, data, schedule)
    pictures = replace(pictures, trigger=attack.trigger)  # whose background an attack may set
    opens = prepare.opens(attack, schedule, config)
    attack.to(stages.device)
    diffusion = Diffusion(schedule, plain(config.schedule), data.images.shape, stages.device)
    sampling = Sampling(diffusion, scheduler, config.sampler, config.sample, config.seed)
    return Experiment(config, stages, diffusion, sampling, measures, data, pictures, attack, opens, threshold)


def loop_config(runtime: DictConfig) -> LoopConfig:
    """Return what of conf/runtime the training loop reads."""
    settings: dict[str, Any] = plain(runtime)
    return LoopConfig(**{name: settings[name] for name in LoopConfig.__dataclass_fields__})
