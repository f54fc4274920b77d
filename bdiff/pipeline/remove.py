"""The removal stage: a model without its backdoor, which is sampled and measured as the suspect was."""

import math
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from bdiff.common.seeds import generator, seed_of
from bdiff.data.base import Images
from bdiff.defense.base import Inversion, Removal
from bdiff.diffusion.batch import Loss
from bdiff.diffusion.training import TrainConfig, fit
from bdiff.model import checkpoint
from bdiff.pipeline.prepare import resident
from bdiff.pipeline.stages import Stages
from bdiff.pipeline.suspect import Diffusion, suspect_of
from bdiff.pipeline.train import InitialWeights
from bdiff.store.artifacts import Stage


class Found(NamedTuple):
    """A trigger that a detection inverted."""

    inversion: Inversion
    key: str  # of the stage that it came from


class Known(NamedTuple):
    """What the defender has beside the suspect and clean images, and by what name."""

    found: Found | None
    clean: InitialWeights | None = None  # a clean model's
    removal: str = "defense.removal"  # the removal's key in the request, for messages


def remove(
    stages: Stages,
    model: Stage,
    removal: Removal,
    settings: dict[str, Any],  # of conf/defense: the removal's, with `images` and `train` if it reads them
    diffusion: Diffusion,
    images: Images,
    seed: int,
    known: Known,
) -> Stage:
    """Take the backdoor out of the model; the stage's `model` folder is a checkpoint as the suspect's is."""
    rows = torch.randperm(len(images), generator=generator(seed, "repair"))
    rows = rows[: max(1, math.ceil(settings.get("images", 0) * len(rows)))].sort().values
    config = removal_training(settings, len(rows))
    found, clean, place = known
    version = removal.version(model.parts["prediction"])
    stage = stages.stage(
        "repair",
        model=model.key,
        schedule=diffusion.key,
        data=images.fingerprint,
        flip=images.flip,
        repair=identity(settings, config),
        trigger=found.key if found else None,
        seed=seed,
        **({"clean": clean.identity} if clean else {}),
        **({"removal_version": version} if version > 1 else {}),
    )

    def build() -> dict[str, Any]:
        here = resident(images.subset(rows), diffusion.device)

        def train(net: nn.Module, loss: Loss, others: Images | None = None, /) -> nn.Module:
            assert config is not None, f"{type(removal).__name__} trains, but has no setting train"
            shown = here if others is None else others
            index, session = torch.arange(len(shown)), stages.session(stage, "repair", f"{place}.train")
            return fit(net, loss, shown, index, config, seed_of(seed, "repair"), session)

        suspect = suspect_of(model, diffusion)
        if clean and clean.folder:
            folder = checkpoint.fetch(clean.folder)
            removal.clean = checkpoint.suspect(folder, diffusion.schedule, diffusion.shape, diffusion.device)
        denoiser = removal.remove(suspect, here, found.inversion.trigger if found else None, train)
        if stages.main:
            checkpoint.save(stage.folder / "model", denoiser, {"repaired": model.key, "key": stage.key})
        return {"images": len(rows) if "images" in settings else 0}

    stages.once(stage, build, "repair", together=True, history=True)
    return stage


def removal_training(settings: dict[str, Any], rows: int) -> TrainConfig | None:
    """Return how a removal trains on so many images, its number of steps counted; None if it does not."""
    if "train" not in settings:
        return None
    config = TrainConfig(**settings["train"])
    return replace(config, steps=config.total(rows), epochs=None)


def identity(settings: dict[str, Any], config: TrainConfig | None) -> dict[str, Any]:
    """Return what keys say of a removal's settings: of a clean model the weights count, not the place."""
    named = {name: value for name, value in settings.items() if name != "clean"}
    return named | ({"train": asdict(config)} if config else {})
