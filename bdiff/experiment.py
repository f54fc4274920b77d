"""One experiment, from a composed config to metrics.json: the stages in order. Read this file first.

data -> train -> sample -> measure -> amplify, defend, each kept under a key of all that it depends on, so that the
same request again reuses what is there, and a killed one goes on.
"""

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from bdiff.context import Experiment, plain, resolve_precisions
from bdiff.data.base import to_float, to_uint8
from bdiff.device import open_device
from bdiff.errors import RequestError, RunError
from bdiff.model.checkpoint import weights_digest
from bdiff.provenance import device_name
from bdiff.sample import shards
from bdiff.schedulers import start_marks
from bdiff.stage.amplify import amplify
from bdiff.stage.answer import Answer
from bdiff.stage.defend import defend
from bdiff.stage.measure import Clean, measure
from bdiff.stage.reference import examine_classifiers
from bdiff.stage.sample import draw_samples, kinds
from bdiff.stage.train import Start, beginning, clean_model, train
from bdiff.stage.trial import examine
from bdiff.steps import class_of, first_timestep
from bdiff.store import Stage
from bdiff.tracker.none import NoTracker
from bdiff.train import read_history


def unharmed(run: Experiment, suspect: Stage, start: Start) -> Clean:
    """Return what the clean model makes of the suspect's noise: the model it started from, or its twin."""
    model, words = clean_model(run, start)
    digests = {weights_digest(str(one.folder / "model")) for one in (model, suspect)}
    return Clean(draw_samples(run, model, "clean_sample"), words, same=len(digests) == 1)


def resolve(config: DictConfig) -> None:
    """Set what a request leaves to the device, its precisions, to what that is here."""
    resolve_precisions(config, open_device(config.runtime.device).device)


def run_experiment(config: DictConfig, folder: Path, tracker: NoTracker) -> dict[str, Any]:
    """Carry out the request and return what metrics.json says of it, pictures in `folder`/figures."""
    run = Experiment(config, tracker)
    try:
        return carried_out(run, folder)
    except RequestError as error:
        if not run.started:
            raise
        raise RunError("; ".join(error.problems)) from error  # however wrong the request was, hours may be gone


def carried_out(run: Experiment, folder: Path) -> dict[str, Any]:
    """Go through the stages of `run` and return what metrics.json says of it."""
    config = run.config
    examine(run)
    examine_classifiers(run)
    start = beginning(run)
    model = train(run, start)
    samples = draw_samples(run, model)
    measured = measure(run, samples, unharmed(run, model, start) if "sample_psnr" in config.metric.also else None)
    if run.accelerator.is_main_process:
        pictures(run, model, samples, folder, measured["metrics"])
    answer = Answer()
    if config.amplify._target_:
        answer |= amplify(run, model)
    if config.defense._target_:
        answer |= defend(run, model, start)
    if run.accelerator.is_main_process:
        more_pictures(run, answer, folder)
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
        "keys": run.keys,
        "seconds": run.seconds,
        "reused": run.reused,
        "model": str(model.folder / "model"),
        "history": str(model.folder / "history.jsonl"),
        "device": device_name(run.device),
        "provenance": run.provenance,
    }


def sampler_protocol(config: DictConfig) -> dict[str, Any]:
    """Return what has to be known of the sampler to compare samples, the timestep at which it starts among it."""
    scheduler, steps = plain(config.sampler.scheduler), config.sample.steps
    first = first_timestep(scheduler, steps, config.schedule.num_train_timesteps)
    about = {"name": class_of(scheduler), "steps": steps, "first_t": first, "clip": config.sample.clip}
    marks = start_marks(plain(config.schedule))
    return about | plain(config.sampler.step) | ({"marks": marks} if marks else {})


def pictures(run: Experiment, model: Stage, samples: Stage, folder: Path, metrics: dict[str, float]) -> None:
    """Write the run's figures and show them to the tracker."""
    from bdiff.report import figures

    first = {kind: next(shards(samples.folder / "shards", kind)) for kind in kinds(run)}
    example = to_float(run.images.take(torch.zeros(1, dtype=torch.long))).cpu()
    singles = {
        "trigger": to_uint8(run.trigger.pattern),
        **({"target": to_uint8(run.target)} if run.attack.starts_samples else {}),
        "stamped example": to_uint8(run.attack.embed(example))[0],
    }
    title, sheets = run.config.name, {"samples": first["clean"]}
    if "triggered" in first:
        title += f"   ASR {metrics['suspect/asr']:.3f}   MSE {metrics['suspect/mse']:.3g}"
        sheets["samples with the trigger in the same noise"] = first["triggered"]
    place = folder / "figures"
    figures.overview(place / "overview.png", title, singles, sheets)
    for name, image in singles.items():
        figures.picture(place / f"{name.replace(' ', '_')}.png", image)
    for name, images in first.items():
        figures.sheet(place / f"{name}.png", images)
    states = load_file(samples.folder / "trajectory.safetensors")
    rows = {name: to_uint8(states[name][:, 0]) for name in reversed(first)}
    figures.trajectory(place / "trajectory.png", states["t"].tolist(), rows)
    history = read_history(model.folder / "history.jsonl")
    if history:
        figures.loss_curve(place / "loss.png", run.config.name, history)
    for shown in ("overview", "trajectory", *(["loss"] if history else [])):
        run.tracker.picture(shown, place / f"{shown}.png")


def more_pictures(run: Experiment, answer: Answer, folder: Path) -> None:
    """Write what there is to see of a defense or an amplification: triggers beside the true one, and samples."""
    from bdiff.report import figures

    place = folder / "figures"
    if answer.triggers:
        true = {"true trigger": run.trigger.pattern} if run.attack.poison_rate > 0 else {}
        singles = true | answer.triggers
        figures.beside(place / "triggers.png", {name: to_uint8(trigger) for name, trigger in singles.items()})
        run.tracker.picture("triggers", place / "triggers.png")
    for name, images in answer.samples.items():
        figures.sheet(place / f"{name.replace(' ', '_')}.png", images)
    for name, draw in answer.figures.items():
        draw(place / f"{name}.png")
        run.tracker.picture(name, place / f"{name}.png")
