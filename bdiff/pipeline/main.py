"""One experiment, from a composed config to metrics.json: the stages in order. Read this file first.

data -> train -> sample -> measure -> amplify, defend, each kept under a key of all that it depends on, so that the
same request again reuses what is there, and a killed one goes on.
"""

from collections.abc import Callable, Mapping
from typing import Any

from omegaconf import DictConfig

from bdiff.common.device import open_device
from bdiff.common.errors import RequestError, RunError
from bdiff.diffusion.schedulers import start_marks
from bdiff.diffusion.steps import class_of, first_timestep
from bdiff.model.checkpoint import weights_digest
from bdiff.pipeline.amplify import amplify
from bdiff.pipeline.defend import defend
from bdiff.pipeline.experiment import Experiment, build_experiment
from bdiff.pipeline.figures import figures_of, more_figures
from bdiff.pipeline.measure import Clean, measure
from bdiff.pipeline.prepare import plain, resolve_precisions
from bdiff.pipeline.reference import examine_classifiers
from bdiff.pipeline.result import Figure, StageResult
from bdiff.pipeline.sample import draw_samples
from bdiff.pipeline.train import InitialWeights, beginning, clean_model, train
from bdiff.pipeline.trial import examine
from bdiff.store.artifacts import Stage
from bdiff.store.provenance import device_name
from bdiff.tracker.none import NoTracker

#: takes figures by their names
Show = Callable[[Mapping[str, Figure]], None]


def clean_reference(run: Experiment, suspect: Stage, start: InitialWeights) -> Clean:
    """Return what the clean model makes of the suspect's noise: the model it started from, or its clean reference."""
    model, words = clean_model(run, start)
    digests = {weights_digest(str(one.folder / "model")) for one in (model, suspect)}
    return Clean(draw_samples(run, model, "clean_sample"), words, same=len(digests) == 1)


def resolve(config: DictConfig) -> None:
    """Set what a request leaves to the device, its precisions, to what that is here."""
    resolve_precisions(config, open_device(config.runtime.device).device)


def run_experiment(config: DictConfig, tracker: NoTracker, show: Show) -> dict[str, Any]:
    """Carry out the request and return what metrics.json says of it; `show` gets what there is to see, as it comes."""
    run = build_experiment(config, tracker)
    try:
        return carried_out(run, show)
    except RequestError as error:
        if not run.stages.started:
            raise
        raise RunError("; ".join(error.problems)) from error  # however wrong the request was, hours may be gone


def carried_out(run: Experiment, show: Show) -> dict[str, Any]:
    """Go through the stages of `run` and return what metrics.json says of it."""
    config = run.config
    examine(run)
    examine_classifiers(run)
    start = beginning(run)
    model = train(run, start)
    samples = draw_samples(run, model)
    measured = measure(
        run, samples, clean_reference(run, model, start) if "sample_psnr" in config.metric.also else None
    )
    if run.stages.main:
        show(figures_of(run, model, samples, measured["metrics"]))
    answer = StageResult()
    if config.amplify._target_:
        answer |= amplify(run, model)
    if config.defense._target_:
        answer |= defend(run, model, start)
    if run.stages.main:
        show(more_figures(run, answer))
    measured["metrics"] |= answer.metrics
    measured["protocol"] |= answer.protocol
    measured["protocol"] |= {
        "sampler": sampler_protocol(config),
        "images": config.sample.count,
        "precision": {"train": config.train.precision, "sample": config.sample.precision},
        "seed": config.seed,
    }
    return {
        **measured,
        "keys": run.stages.keys,
        "seconds": run.stages.seconds,
        "reused": run.stages.reused,
        "model": str(model.folder / "model"),
        "history": str(model.folder / "history.jsonl"),
        "device": device_name(run.stages.device),
        "provenance": run.stages.provenance,
    }


def sampler_protocol(config: DictConfig) -> dict[str, Any]:
    """Return what has to be known of the sampler to compare samples, the timestep at which it starts among it."""
    scheduler, steps = plain(config.sampler.scheduler), config.sample.steps
    first = first_timestep(scheduler, steps, config.schedule.num_train_timesteps)
    about = {"name": class_of(scheduler), "steps": steps, "first_t": first, "clip": config.sample.clip}
    marks = start_marks(plain(config.schedule))
    return about | plain(config.sampler.step) | ({"marks": marks} if marks else {})
