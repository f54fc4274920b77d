"""The trigger stage: a pattern that the attack learns before training, kept as a picture that other runs can take."""

import torch
from PIL import Image
from torch import Tensor

from bdiff.common.progress import progress
from bdiff.common.seeds import generator
from bdiff.data.base import to_float, to_uint8
from bdiff.diffusion.denoiser import Suspect
from bdiff.model import checkpoint
from bdiff.pictures.draw import load
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.prepare import plain
from bdiff.pipeline.start import InitialWeights
from bdiff.store import artifacts
from bdiff.store.artifacts import Stage
from bdiff.trigger.base import Trigger

BATCH = 64  # images per step


def learn_trigger(run: Experiment, start: InitialWeights, surrogate: str) -> None:
    """Give the run the trigger that its attack, prepared, learns behind the denoiser that training starts from.

    `surrogate` is the surrogate's key. `trigger=image trigger.path=<the stage's trigger.png>` takes the same one again.
    """
    settings = plain(run.config.attack)
    stage = run.stages.stage(
        "trigger",
        attack={name: settings[name] for name in ("_target_", "learn", *run.attack.learn_reads)},
        surrogate=surrogate,
        trigger=run.pictures["trigger"],
        start=start.identity,
        unet=plain(run.config.model.unet),
        schedule=plain(run.config.schedule),
        data=run.images.fingerprint,
        precision=run.config.train.precision,
        seed=run.config.seed,
    )
    path = stage.folder / "trigger.png"
    with run.stages.missing(stage) as missing:
        if missing:
            picture = rgba(learned(run, start, stage))
            with artifacts.atomic(path) as scratch:
                Image.fromarray(picture.numpy()).save(scratch, format="png")
            run.stages.end(stage)
    channels, size = run.images.shape[:2]
    run.trigger = run.attack.trigger = Trigger.from_picture(load(path, size, "trigger.path"), channels)
    run.attack.to(run.stages.device)
    run.pictures["trigger"] = artifacts.content(run.trigger.pattern, run.trigger.mask)


def learned(run: Experiment, start: InitialWeights, stage: Stage) -> Tensor:
    """Return the pattern (C,H,W) in [-1,1], a function of the seed."""
    unet = checkpoint.build(plain(run.config.model.unet), start.folder)
    precision = run.config.train.precision
    denoiser = Suspect(unet, run.schedule, run.images.shape, run.stages.device, start.prediction, precision)
    draws, pattern = generator(run.config.seed, "trigger"), run.trigger.pattern.to(run.stages.device)
    with progress(stage.name, run.attack.learn, unit="steps", every=run.config.runtime.progress) as meter:
        for _ in range(run.attack.learn):
            x = to_float(
                run.images.take(torch.randint(len(run.images), (BATCH,), generator=draws)).to(run.stages.device)
            )
            pattern = run.attack.update_trigger(denoiser, pattern, x, denoiser.noise(len(x), draws))
            meter.advance()
    return pattern.cpu()


def rgba(pattern: Tensor) -> Tensor:
    """Return a pattern (C,H,W) in [-1,1] as opaque pixels (H,W,4) uint8, so that no part of it is background."""
    colours = to_uint8(pattern).expand(3, -1, -1)
    return torch.cat([colours, torch.full_like(colours[:1], 255)]).permute(1, 2, 0).contiguous()
