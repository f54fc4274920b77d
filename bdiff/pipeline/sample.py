"""The sampling stage: images of several kinds from one model and the same noise."""

from collections.abc import Callable
from typing import Any, NamedTuple

from omegaconf import DictConfig
from torch import Tensor

from bdiff.common.seeds import seed_of
from bdiff.defense.base import SamplingDefense
from bdiff.diffusion.denoiser import Denoiser
from bdiff.diffusion.sampling import Drawn, Prior, Sampler, sample
from bdiff.diffusion.view import View
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.prepare import plain, without
from bdiff.pipeline.suspect import suspect_of
from bdiff.store.artifacts import Stage, content


class SampleKind(NamedTuple):
    """Where the samples of a kind start, and what keys say of that."""

    prior: Prior
    identity: Any
    view: Callable[[Denoiser], View] = View


def clean() -> SampleKind:
    """Return the kind that a benign user draws."""
    return SampleKind(lambda eps: eps, None)


def shifted(pattern: Tensor) -> SampleKind:
    """Return the kind that starts from noise with `pattern` (C,H,W) added."""
    return SampleKind(lambda eps: eps + pattern.to(eps), content(pattern))


def kinds(run: Experiment) -> dict[str, SampleKind]:
    """Return the kinds that a model is judged by: clean samples, and triggered ones if the attack has them."""
    if not run.attack.starts_samples:
        return {"clean": clean()}
    identity = {"attack": run.attack.start_key, "trigger": run.pictures["trigger"]}
    return {"clean": clean(), "triggered": SampleKind(run.attack.prior, identity, run.attack.view)}


def count_of(config: DictConfig, kind: str) -> int:
    """Return how many samples of a kind a run draws: `sample.count` clean ones, `sample.triggered` of any other.

    FID needs many clean ones, while ASR needs fewer: over 2,048 its standard error is at most 1.1 points.
    """
    count = config.sample.count
    return count if kind == "clean" else min(count, config.sample.get("triggered", count))  # older configs lack it


def draw_samples(
    run: Experiment,
    model: Stage,
    name: str = "sample",  # what logs and metrics.json call this sampling
    drawn: dict[str, SampleKind] | None = None,  # `kinds(run)` if none are given
    guard: SamplingDefense | None = None,  # changes the sampler
) -> Stage:
    """Sample images of each kind from the model of `model`."""
    config = run.config
    drawn = drawn or kinds(run)
    scheduler = run.scheduler
    if guard:
        scheduler = guard.scheduler(scheduler)
    counts = {name: count_of(config, name) for name in drawn}
    stage = run.stages.stage(
        "sample",
        model=model.key,
        schedule=plain(config.schedule),
        sampler=without(config.sampler, "steps"),  # sample.steps has them
        sample=without(config.sample, "count", "triggered"),
        counts=counts,
        guard=without(config.defense, "removal") if guard else None,
        kinds={name: kind.identity for name, kind in drawn.items()},
        seed=config.seed,
    )
    with run.stages.building(stage, name) as missing:
        if missing:
            sample(
                suspect_of(run, model, config.sample.precision),
                Sampler(scheduler, config.sample.steps, plain(config.sampler.step)),
                {name: Drawn(kind.prior, counts[name], kind.view) for name, kind in drawn.items()},
                config.sample.batch_size,
                seed_of(config.seed, "samples"),
                stage.folder / "shards",
                run.stages.accelerator,
                config.runtime.progress,
            )
            run.stages.accelerator.wait_for_everyone()
            run.stages.end(stage, images=counts)
    return stage
