"""The adversary of a shield: images that are changed to fool the classifier, kept for all runs that ask for them."""

from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from bdiff.adversary.pgd import Ball, apgd, pgd
from bdiff.common.seeds import generator, seed_of
from bdiff.config.keys import plain
from bdiff.defense.base import Logits
from bdiff.pipeline.eval_set import EvalSet
from bdiff.pipeline.prepare import without
from bdiff.pipeline.shield_table import by_batch
from bdiff.pipeline.stages import BATCHES, Stages, keep


def adversarial(stages: Stages, on: EvalSet, config: DictConfig) -> Tensor:
    """Return the clean images (K,C,H,W) as the adversary of conf/defense changes them on the classifier alone."""
    alone = on.among({"clean": on.inputs["clean"]}).identity
    stage = stages.stage("shield", what="adversarial", adversary=adversary_key(config), seed=config.seed, **alone)
    path, count = stage.folder / "images.safetensors", len(on.labels)

    def attacked(part: slice) -> Tensor:
        x, y = on.inputs["clean"][part].to(stages.device), on.labels[part].to(stages.device)
        return attack(on.classifier, x, y, on.indices[part].tolist(), config.adversary, config.seed, "pgd")

    def build() -> dict[str, Any]:
        with stages.meter("adversarial", count, "images") as meter:
            found = by_batch(stage.folder / BATCHES, count, config.batch_size, attacked, meter, stages.peers)
        if stages.main:
            keep(path, {"x": found})
        return {}

    stages.once(stage, build, "adversarial", together=True)
    return stages.read(path, "x", on.inputs["clean"].shape)


def adversary_key(config: DictConfig) -> dict[str, Any]:
    """Return conf/defense's adversary for keys: APGD chooses its steps' length, and its answers depend on the batch."""
    if config.adversary.method == "apgd":
        return without(config.adversary, "step") | {"batch_size": config.batch_size}
    settings: dict[str, Any] = plain(config.adversary)
    return settings


def attack(
    logits: Logits,
    x: Tensor,  # (B,C,H,W) in [-1,1]
    y: Tensor,  # (B,) int64
    indices: list[int],  # of the images in their dataset
    settings: DictConfig,  # method, norm, eps, step (of PGD alone) and steps
    seed: int,
    purpose: str,  # of the random numbers
    eot: int = 1,
) -> Tensor:
    """Return the images as the adversary of the settings changes them, see `bdiff.adversary.pgd`."""
    ball, steps = Ball(settings.norm, settings.eps), settings.steps
    if settings.method == "apgd":
        return apgd(logits, x, y, ball=ball, steps=steps, eot=eot, seed=seed_of(seed, purpose, *indices))
    starts = [generator(seed, purpose, index) for index in indices]
    return pgd(logits, x, y, ball=ball, step=settings.step, steps=steps, eot=eot, generator=starts)
