"""The sampling stage: images of several kinds from one model and the same noise."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from omegaconf import DictConfig
from torch import Tensor

from bdiff.attack.base import Attack
from bdiff.common.seeds import seed_of
from bdiff.config.keys import plain
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.mode import Work
from bdiff.diffusion.sampling import Drawn, Prior, Sampler, sample
from bdiff.diffusion.view import View, affine
from bdiff.pipeline.prepare import Pictures, without
from bdiff.pipeline.stages import Stages
from bdiff.pipeline.suspect import Diffusion, suspect_of
from bdiff.store.artifacts import Stage, content


@dataclass(frozen=True)
class Sampling:
    """How a run draws images from any model."""

    diffusion: Diffusion
    scheduler: Any  # diffusers', over the same schedule
    sampler: DictConfig  # conf/sampler
    sample: DictConfig  # conf/sample
    seed: int
    defense: dict[str, Any] | None = None  # what keys say of a defense that has changed the scheduler


class SampleKind(NamedTuple):
    """Where the samples of a kind start, and what keys say of that."""

    prior: Prior
    identity: Any
    view: Callable[[Denoiser], View] = View


def clean() -> SampleKind:
    """Return the kind that a benign user draws."""
    return SampleKind(lambda eps: eps, None)


def shifted(pattern: Tensor, gamma: Tensor | None = None, ode: bool = True) -> SampleKind:
    """Return the kind that starts from noise with `pattern` (C,H,W) added; see `affine` for noise scaled by `gamma`."""
    if gamma is None:
        return SampleKind(lambda eps: eps + pattern.to(eps), content(pattern))
    view = partial(affine(ode), gamma=gamma, mu=pattern)
    return SampleKind(lambda eps: gamma.to(eps) * eps + pattern.to(eps), content(gamma, pattern), view)


def sample_kinds(attack: Attack, pictures: Pictures) -> dict[str, SampleKind]:
    """Return the kinds that a model is judged by: clean samples, and triggered ones if the attack has them."""
    if not attack.starts_samples:
        return {"clean": clean()}
    identity = {"attack": attack.start_key, "trigger": pictures.keys["trigger"]}
    return {"clean": clean(), "triggered": SampleKind(attack.prior, identity, attack.view)}


def count_of(sample: DictConfig, kind: str) -> int:
    """Return how many samples of a kind conf/sample draws: `count` clean ones, `triggered` of any other.

    FID needs many clean ones, while ASR needs fewer: over 2,048 its standard error is at most 1.1 points.
    """
    count = int(sample.count)
    return count if kind == "clean" else min(count, sample.get("triggered", count))  # older configs lack it


def draw_samples(
    stages: Stages,
    sampling: Sampling,
    model: Stage,
    kinds: dict[str, SampleKind],
    name: str = "sample",  # what logs and metrics.json call this sampling
) -> Stage:
    """Sample images of each kind from the model of `model`."""
    config = sampling.sample
    counts = {kind: count_of(config, kind) for kind in kinds}
    stage = stages.stage(
        "sample",
        model=model.key,
        schedule=sampling.diffusion.key,
        sampler=without(sampling.sampler, "steps"),  # sample.steps has them
        sample=without(config, "count", "triggered"),
        counts=counts,
        guard=sampling.defense,
        kinds={name: kind.identity for name, kind in kinds.items()},
        seed=sampling.seed,
    )

    def build() -> dict[str, Any]:
        suspect = suspect_of(model, sampling.diffusion, config.precision)
        sampler = Sampler(sampling.scheduler, config.steps, plain(sampling.sampler.step))
        stages.settle(stage, suspect, Work(sum(counts.values()) * sampler.calls, config.batch_size), together=True)
        sample(
            suspect,
            sampler,
            {name: Drawn(kind.prior, counts[name], kind.view) for name, kind in kinds.items()},
            config.batch_size,
            seed_of(sampling.seed, "samples"),
            stage.folder / "shards",
            stages.accelerator,
            stages.loop.progress,
        )
        return {"images": counts}

    stages.once(stage, build, name, together=True)
    return stage
