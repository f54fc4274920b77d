"""The evaluation of a removal: the model without its backdoor is sampled and measured as the suspect was."""

import math
import shutil
from dataclasses import asdict, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bdiff.common.seeds import generator, seed_of
from bdiff.defense.base import Removal
from bdiff.diffusion.batch import Loss
from bdiff.diffusion.training import Session, TrainConfig, fit
from bdiff.model import checkpoint
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.measure import measure
from bdiff.pipeline.prepare import plain, resident
from bdiff.pipeline.result import StageResult, first_images
from bdiff.pipeline.sample import draw_samples, kinds
from bdiff.pipeline.suspect import suspect_of
from bdiff.store.artifacts import Stage


class Found(NamedTuple):
    """A trigger that a detection inverted."""

    trigger: Tensor  # (C,H,W)
    key: str  # of the stage that it came from


def remeasured(run: Experiment, samples: Stage, who: str) -> StageResult:
    """Return what `measure` says of the samples of `who`; its protocol is the suspect's."""
    pictures = {f"{who} {kind}": first_images(samples, kind) for kind in kinds(run)}
    return StageResult(measure(run, samples, who=who)["metrics"], samples=pictures)


def removed(
    run: Experiment, model: Stage, removal: Removal, settings: dict[str, Any], found: Found | None = None
) -> StageResult:
    """Take the backdoor out of the model, then sample and measure it as the suspect was; see `removed_stage`."""
    stage = removed_stage(run, model, removal, settings, found)
    return remeasured(run, draw_samples(run, stage, "repaired_sample"), "repaired")


def removed_stage(
    run: Experiment,
    model: Stage,
    removal: Removal,
    settings: dict[str, Any],  # of conf/defense: the removal's, with `images` and `train`
    found: Found | None = None,
) -> Stage:
    """Take the backdoor out of the model; the stage's `model` folder is a checkpoint as the suspect's is."""
    rows = torch.randperm(len(run.images), generator=generator(run.config.seed, "repair"))
    rows = rows[: max(1, math.ceil(settings["images"] * len(rows)))].sort().values
    recipe = TrainConfig(**settings["train"])
    recipe = replace(recipe, steps=recipe.total(len(rows)), epochs=None)
    stage = run.stage(
        "repair",
        model=model.key,
        schedule=plain(run.config.schedule),
        data=run.images.fingerprint,
        flip=run.images.flip,
        repair=settings | {"train": asdict(recipe)},
        trigger=found.key if found else None,
        seed=run.config.seed,
    )
    with run.training(stage, "repair") as missing:
        if missing:
            images = resident(run.images.subset(rows), run.device)

            def train(net: nn.Module, loss: Loss) -> nn.Module:
                seed = seed_of(run.config.seed, "repair")
                record = partial(run.record, "repair")
                session = Session(stage.folder, run.loop, run.accelerator, "repair", record, run.costs)
                return fit(net, loss, images, torch.arange(len(images)), recipe, seed, session)

            suspect = suspect_of(run, model)
            denoiser = removal.remove(suspect, images, found.trigger if found else None, train)
            if run.main:
                checkpoint.save(stage.folder / "model", denoiser, {"repaired": model.key, "key": stage.key})
                shutil.rmtree(stage.folder / "state", ignore_errors=True)
            run.finish(stage, images=len(rows))
    return stage
