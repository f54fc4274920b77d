"""The amplification stage: samples from a reinforced trigger and from the true one scaled, each measured."""

from functools import partial
from typing import Any

from omegaconf import DictConfig

from bdiff.common.seeds import seed_of
from bdiff.config.instantiate import made_of
from bdiff.config.keys import plain
from bdiff.diffusion.engine import steady
from bdiff.pipeline.measure import Measuring, target_hits
from bdiff.pipeline.prepare import Pictures
from bdiff.pipeline.result import StageResult, first_images
from bdiff.pipeline.sample import Sampling, draw_samples, shifted
from bdiff.pipeline.stages import Stages, keep
from bdiff.pipeline.suspect import method, settled, suspect_of
from bdiff.store.artifacts import Stage


def amplifier_of(config: DictConfig) -> Any:
    """Return what conf/amplify names, with its inversion."""
    return made_of(config, "inversion", inversion=method(config.inversion))


def amplify(
    stages: Stages,
    model: Stage,
    config: DictConfig,  # conf/amplify
    sampling: Sampling,
    pictures: Pictures,
    measuring: Measuring,
) -> StageResult:
    """Return what becomes of samples from the reinforced and the scaled trigger on the model of `model`."""
    inversion, pattern = config.inversion, pictures.trigger.pattern
    amplifier = amplifier_of(config)
    stage = stages.stage(
        "amplify",
        model=model.key,
        schedule=sampling.diffusion.key,
        amplify=plain(config) | {"inversion": settled(inversion)},
        trigger=pictures.keys["trigger"],
        seed=sampling.seed,
    )
    path = stage.folder / "trigger.safetensors"

    def build() -> dict[str, Any]:
        suspect = suspect_of(model, sampling.diffusion, inversion.precision, inversion.checkpoint)
        stages.settle(stage, suspect, amplifier.inversion.work)
        seed = seed_of(sampling.seed, "amplify")
        with stages.meter("amplify", inversion.steps, "steps") as meter:
            found = steady(lambda: amplifier.reinforce(suspect, pattern, seed, partial(meter.advance, 1)))
        keep(path, {"trigger": found.trigger.contiguous()})
        return {"curve": found.curve, "evaluations": suspect.evaluations}

    stages.once(stage, build)
    reinforced = stages.read(path, "trigger", sampling.diffusion.shape)
    drawn = {"amplified": shifted(reinforced), "scaled": shifted(config.scale * pattern)}
    samples = draw_samples(stages, sampling, model, drawn, "amplified_sample")
    if stages.planning:
        return StageResult()
    metrics: dict[str, float] = {}
    for who in drawn:
        hits = target_hits(samples, who, measuring, stages.device)
        metrics |= {f"{who}/{name}": value for name, value in hits.items()}
    first = {who: first_images(samples, who) for who in drawn}
    return StageResult(metrics, {"amplify": {"scale": config.scale}}, {"amplified trigger": reinforced}, first)
