"""The trigger stage: a pattern that the attack learns before training, kept as a picture that other runs can take."""

from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from bdiff.attack.base import Attack
from bdiff.common.seeds import generator
from bdiff.data.base import to_float, to_uint8
from bdiff.diffusion.denoiser import EPSILON, Suspect
from bdiff.model import checkpoint
from bdiff.pictures.draw import load
from bdiff.pipeline.stages import Stages, unknown
from bdiff.pipeline.train import InitialWeights, TrainingSetup
from bdiff.store import artifacts
from bdiff.trigger.base import Trigger

BATCH = 64  # images per step


def learn_trigger(
    stages: Stages,
    setup: TrainingSetup,
    attack: Attack,  # prepared
    settings: dict[str, Any],  # of conf/attack, without later ones at their default
    surrogate: str | None,  # the surrogate's key
    start: InitialWeights,
    precision: str,
) -> Trigger:
    """Return the trigger that the attack learns behind the denoiser that training starts from.

    `trigger=image trigger.path=<the stage's trigger.png> attack.learn=0` takes the same one again. A bound scales what
    it is given: `learned_trigger` needs attack.bound=1 with it, `uibdiffusion` attack.strength=<strength / bound> too.
    """
    reads = {name: settings[name] for name in ("_target_", "learn", *attack.learn_reads) if name in settings}
    stage = stages.stage(
        "trigger",
        attack=reads | ({"version": attack.learn_version} if attack.learn_version > 1 else {}),
        surrogate=surrogate,
        **{part: setup.pictures.keys[part] for part in attack.reads},
        start=start.identity,
        unet=setup.unet,
        schedule=setup.diffusion.key,
        data=setup.images.fingerprint,
        precision=precision,
        seed=setup.seed,
        **({"prediction": start.prediction} if start.prediction != EPSILON else {}),
    )
    path = stage.folder / "trigger.png"

    def build() -> dict[str, Any]:
        picture = rgba(learned(stages, setup, attack, start, precision))
        with artifacts.atomic(path) as scratch:
            Image.fromarray(picture.numpy()).save(scratch, format="png")
        return {}

    stages.once(stage, build)
    if stages.planning and not path.exists():
        return replace(setup.pictures.trigger, pattern=unknown(path, setup.diffusion.shape))
    channels, size = setup.diffusion.shape[:2]
    return Trigger.from_picture(load(path, size, "trigger.path"), channels)


def learned(stages: Stages, setup: TrainingSetup, attack: Attack, start: InitialWeights, precision: str) -> Tensor:
    """Return the pattern (C,H,W) in [-1,1], a function of the seed."""
    images, device = setup.images, setup.diffusion.device
    unet = checkpoint.build(setup.unet, start.folder)
    denoiser = Suspect(unet, setup.diffusion.schedule, setup.diffusion.shape, device, start.prediction, precision)
    draws, pattern = generator(setup.seed, "trigger"), setup.pictures.trigger.pattern.to(device)
    with stages.meter("trigger", attack.learn, "steps") as meter:
        for _ in range(attack.learn):
            x = to_float(images.take(torch.randint(len(images), (BATCH,), generator=draws)).to(device))
            pattern = attack.update_trigger(denoiser, pattern, x, denoiser.noise(len(x), draws))
            meter.advance()
    return pattern.cpu()


def rgba(pattern: Tensor) -> Tensor:
    """Return a pattern (C,H,W) in [-1,1] as opaque pixels (H,W,4) uint8, so that no part of it is background."""
    colours = to_uint8(pattern).expand(3, -1, -1)
    return torch.cat([colours, torch.full_like(colours[:1], 255)]).permute(1, 2, 0).contiguous()
