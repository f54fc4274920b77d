"""The experiment: a request with everything small built from it. `main.py` takes it through its stages."""

import time
from pathlib import Path

from omegaconf import DictConfig

from bdiff.diffusion.mode import Costs
from bdiff.diffusion.training import LoopConfig
from bdiff.model import checkpoint
from bdiff.pipeline import prepare
from bdiff.pipeline.prepare import plain
from bdiff.pipeline.stages import Stages
from bdiff.tracker.none import NoTracker


class Experiment(Stages):
    """A request with its parts, and the stages that it goes through.

    Raises RequestError before anything is trained if a part cannot be had.
    """

    def __init__(self, config: DictConfig, tracker: NoTracker):
        super().__init__(Path(config.paths.outputs), config.runtime.device, tracker)
        self.config = config
        prepare.resolve_precisions(config, self.device)  # before any key is made of them
        self.schedule = prepare.schedule(config)
        self.scheduler = prepare.sampler(config.sampler, self.schedule, config.sample.steps)
        runtime = plain(config.runtime)
        self.loop = LoopConfig(**{name: runtime[name] for name in LoopConfig.__dataclass_fields__})
        self.costs = Costs(Path(config.paths.cache) / "compiled")
        self.measures = prepare.measures(config)
        if config.model.pretrained is not None:
            checkpoint.examine(config.model.pretrained, plain(config.model.unet), self.schedule)
        began = time.monotonic()
        self.data = prepare.data(config, self.measures)
        self.images = self.data.images
        self.seconds["data"] = round(time.monotonic() - began, 3)
        self.unflagged = prepare.resolve_threshold(config, self.images.name)
        self.trigger, self.target = prepare.pictures(config, self.images.shape)
        self.pictures = prepare.identities(self.trigger, self.target)
        self.attack = prepare.attack(config, self.trigger, self.target, self.images, self.schedule)
        self.attack.to(self.device)
