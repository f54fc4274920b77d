"""The experiment: a request, and everything small that is built from it. `main.py` takes it through its stages."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from bdiff.attack.base import Attack
from bdiff.data.base import Images
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.training import LoopConfig
from bdiff.model import checkpoint
from bdiff.pipeline import prepare
from bdiff.pipeline.prepare import Data, Measures, plain
from bdiff.pipeline.stages import Stages
from bdiff.tracker.none import NoTracker
from bdiff.trigger.base import Trigger


@dataclass
class Experiment:
    """A request with its parts, and the stages that it goes through."""

    config: DictConfig
    stages: Stages
    schedule: Schedule
    scheduler: Any  # diffusers'
    measures: Measures
    data: Data
    trigger: Trigger
    target: torch.Tensor
    pictures: dict[str, str]
    attack: Attack
    unflagged: str | None  # why the detection's threshold flags no model here

    @property
    def images(self) -> Images:
        """The images of training."""
        return self.data.images


def build_experiment(config: DictConfig, tracker: NoTracker) -> Experiment:
    """Return the request with its parts.

    Raises RequestError before anything is trained if a part cannot be had.
    """
    runtime = plain(config.runtime)
    loop = LoopConfig(**{name: runtime[name] for name in LoopConfig.__dataclass_fields__})
    stages = Stages(Path(config.paths.outputs), config.runtime.device, tracker, loop)
    prepare.resolve_precisions(config, stages.device)  # before any key is made of them
    schedule = prepare.schedule(config)
    scheduler = prepare.sampler(config.sampler, schedule, config.sample.steps)
    measures = prepare.measures(config)
    if config.model.pretrained is not None:
        checkpoint.examine(config.model.pretrained, plain(config.model.unet), schedule)
    began = time.monotonic()
    data = prepare.data(config, measures)
    stages.seconds["data"] = round(time.monotonic() - began, 3)
    unflagged = prepare.resolve_threshold(config, data.images.name)
    trigger, target = prepare.pictures(config, data.images.shape)
    pictures = prepare.identities(trigger, target)
    attack = prepare.attack(config, trigger, target, data.images, schedule)
    attack.to(stages.device)
    return Experiment(config, stages, schedule, scheduler, measures, data, trigger, target, pictures, attack, unflagged)
