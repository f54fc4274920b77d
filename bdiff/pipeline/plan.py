"""A run without its work: what it would reuse, what is left, and an estimate of how long that takes and how much."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from hydra.utils import get_object
from omegaconf import DictConfig
from torch import Tensor

from bdiff.common.downloads import NotHere, forbidden
from bdiff.config.instantiate import made_of, make
from bdiff.config.keys import plain
from bdiff.data.base import Images
from bdiff.data.dataset import Dataset
from bdiff.data.outline import Outline, outlined
from bdiff.metric.fid.base import Features
from bdiff.model import checkpoint
from bdiff.pipeline import prepare
from bdiff.pipeline.estimate import Row, basis, estimate
from bdiff.pipeline.experiment import Experiment, assembled, opened
from bdiff.pipeline.main import carried_out
from bdiff.pipeline.planned import PlannedStages
from bdiff.pipeline.prepare import without
from bdiff.tracker.none import NoTracker

T = TypeVar("T")


class AbsentFeatures(Features):
    """What stands for features whose weights are not here."""

    suffix, num_features = "", 2048

    def identity(self) -> dict[str, Any]:
        return {"extractor": None}

    def logits(self, activations: Tensor) -> Tensor:
        raise NotHere("the features' weights are not here")


class AbsentLpips:
    """What stands for LPIPS whose weights are not here."""

    sha256 = None


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    name: str
    rows: list[Row]
    missing: list[str]  # what is not here, in words
    basis: list[str]  # in lines: what the estimates rest on


def plan(config: DictConfig) -> Plan:
    """Return what the request would do. Nothing is written, downloaded or trained.

    Raises RequestError where a run would be refused.
    """
    with forbidden():
        run, missing = outlined_experiment(config)
        carried_out(run, lambda figures: None)
    steps = cast(PlannedStages, run.stages).steps
    return Plan(config.name, [estimate(run, step) for step in steps], [*dict.fromkeys(missing)], basis(run, steps))


def outlined_experiment(config: DictConfig) -> tuple[Experiment, list[str]]:
    """Return the request with its parts as far as they are here, and what is missing; see `build_experiment`."""
    missing: list[str] = []

    def or_else(made: Callable[..., T], absent: Any) -> Callable[..., T]:
        def tried(*given: Any) -> Any:
            try:
                return made(*given)
            except NotHere as problem:
                missing.extend(problem.problems)
                return absent

        return tried

    def outline(part: DictConfig, **arguments: Any) -> Images:
        dataset = get_object(part._target_)
        if not isinstance(dataset, Dataset):
            return cast(Images, make(part, **arguments))
        images = outlined(dataset, **(without(part, "_target_") | arguments))
        missing.extend([f"data: {images.missing}"] if isinstance(images, Outline) else [])
        return images

    stages = opened(config, NoTracker(), PlannedStages)
    schedule = prepare.schedule(config)
    scheduler = prepare.sampler(config.sampler, schedule, config.sample.steps)
    measures = prepare.measures(config, or_else(made_of, AbsentFeatures()), or_else(prepare.perceptual, AbsentLpips()))
    if config.model.pretrained is not None:
        or_else(checkpoint.examine, None)(config.model.pretrained, plain(config.model.unet), schedule)
    data = prepare.data(config, measures, outline)
    return assembled(config, stages, schedule, scheduler, measures, data), missing
