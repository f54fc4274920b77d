"""The removal stage: a model without its backdoor, which is sampled and measured as the suspect was."""

import math
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bdiff.common.seeds import generator, seed_of
from bdiff.data.base import Images
from bdiff.defense.base import Removal
from bdiff.diffusion.batch import Loss
from bdiff.diffusion.training import TrainConfig, fit
from bdiff.model import checkpoint
from bdiff.pipeline.prepare import resident
from bdiff.pipeline.stages import Stages
from bdiff.pipeline.suspect import Diffusion, suspect_of
from bdiff.store.artifacts import Stage


class Found(NamedTuple):
    """A trigger that a detection inverted."""

    trigger: Tensor  # (C,H,W)
    key: str  # of the stage that it came from


def remove(
    stages: Stages,
    model: Stage,
    removal: Removal,
    settings: dict[str, Any],  # of conf/defense: the removal's, with `images` and `train`
    diffusion: Diffusion,
    images: Images,
    seed: int,
    found: Found | None = None,
) -> Stage:
    """Take the backdoor out of the model; the stage's `model` folder is a checkpoint as the suspect's is."""
    rows = torch.randperm(len(images), generator=generator(seed, "repair"))
    rows = rows[: max(1, math.ceil(settings["images"] * len(rows)))].sort().values
    config = TrainConfig(**settings["train"])
    config = replace(config, steps=config.total(len(rows)), epochs=None)
    stage = stages.stage(
        "repair",
        model=model.key,
        schedule=diffusion.key,
        data=images.fingerprint,
        flip=images.flip,
        repair=settings | {"train": asdict(config)},
        trigger=found.key if found else None,
        seed=seed,
    )

    def build() -> dict[str, Any]:
        here = resident(images.subset(rows), diffusion.device)

        def train(net: nn.Module, loss: Loss) -> nn.Module:
            index, session = torch.arange(len(here)), stages.session(stage, "repair")
            return fit(net, loss, here, index, config, seed_of(seed, "repair"), session)

        suspect = suspect_of(model, diffusion)
        denoiser = removal.remove(suspect, here, found.trigger if found else None, train)
        if stages.main:
            checkpoint.save(stage.folder / "model", denoiser, {"repaired": model.key, "key": stage.key})
        return {"images": len(rows)}

    stages.once(stage, build, "repair", together=True, history=True)
    return stage
