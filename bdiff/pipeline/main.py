"""One experiment, from a composed config to metrics.json: the stages in order. Read this file first.

data -> train -> sample -> measure -> amplify, defend, each kept under a key of all that it depends on, so that the
same request again reuses what is there, and a killed one goes on.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from omegaconf import DictConfig

from bdiff.attack.base import Parts
from bdiff.common.device import open_device
from bdiff.common.errors import RequestError, RunError
from bdiff.config.keys import plain
from bdiff.data.joined import joined
from bdiff.diffusion.schedulers import start_marks
from bdiff.diffusion.steps import class_of, first_timestep
from bdiff.model import checkpoint
from bdiff.model.checkpoint import weights_digest
from bdiff.pipeline.amplify import amplify
from bdiff.pipeline.class_target import target_class
from bdiff.pipeline.classifier import examine_classifier, train_classifier
from bdiff.pipeline.defend import Case, evaluated
from bdiff.pipeline.eval_set import evaluation_rows, examined
from bdiff.pipeline.experiment import Experiment, build_experiment
from bdiff.pipeline.figures import attack_pictures, model_figures, result_figures
from bdiff.pipeline.leak import Clean
from bdiff.pipeline.measure import Measuring, distance_to_reference, measure
from bdiff.pipeline.prepare import resolve_precisions, without
from bdiff.pipeline.reference import feature_extractor
from bdiff.pipeline.result import Figure, StageResult
from bdiff.pipeline.sample import draw_samples
from bdiff.pipeline.stages import Stages
from bdiff.pipeline.suspect import method
from bdiff.pipeline.train import (
    InitialWeights,
    as_before,
    attack_key,
    clean_model,
    initial_weights,
    train_clean,
    train_denoiser,
)
from bdiff.pipeline.trigger import learn_trigger
from bdiff.store.artifacts import Stage
from bdiff.store.provenance import device_name
from bdiff.tracker.none import NoTracker

log = logging.getLogger(__name__)

#: takes figures by their names
Show = Callable[[Mapping[str, Figure]], None]


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
    config, stages = run.config, run.stages
    examine_requirements(run)
    start = initial_weights(stages, run.setup, config.model, config.pretrain)
    model = train_suspect(run, start)
    samples = draw_samples(stages, run.sampling, model, run.kinds)
    reference = clean_samples(run, model, start) if "sample_psnr" in config.metric.also else None
    measuring = prepare_measuring(run)
    measured = measure(stages, samples, measuring, reference, images=run.images)
    measured["protocol"] |= expectation(measured["protocol"], run.opens)
    if stages.main:
        singles = attack_pictures(run.attack, run.pictures, run.images)
        show(model_figures(config.name, model, samples, run.kinds, singles, measured["metrics"]))
    result = StageResult()
    if config.amplify._target_:
        result |= amplify(stages, model, config.amplify, run.sampling, run.pictures, measuring)
    if config.defense._target_:
        result |= evaluated(method(config.defense), Case(run, model, start, measuring, samples, reference))
    if stages.main:
        show(result_figures(result, run.pictures.trigger.pattern if run.attack.poison_rate > 0 else None))
    measured["metrics"] |= result.metrics
    measured["protocol"] |= result.protocol
    measured["protocol"] |= {
        "sampler": sampler_protocol(config),
        "images": config.sample.count,
        "precision": {"train": config.train.precision, "sample": config.sample.precision},
        "seed": config.seed,
        **compiled_protocol(stages),
    }
    return {
        **measured,
        "keys": stages.keys,
        "seconds": stages.seconds,
        "reused": stages.reused,
        "model": str(model.folder / "model"),
        "history": str(model.folder / "history.jsonl"),
        "device": device_name(stages.device),
        "provenance": stages.provenance,
        "pictures": run.pictures.files,
        "poisoning": {"reads": [*run.attack.reads], "mode": run.attack.poison_mode},
    }


def examine_requirements(run: Experiment) -> None:
    """Raise RequestError, before anything is trained, where a file or the data do not suit what comes after it."""
    config = run.config
    if config.defense._target_:
        schedule, defense = run.diffusion.schedule, config.defense
        examined(
            method(defense), defense, schedule, run.attack, lambda: evaluation_rows(run.data, config.classifier)[1]
        )
        examine_clean_model(run)
    for name in ("classifier", "surrogate"):
        if config.get(name):
            examine_classifier(run.images, config[name], name)
    if run.attack.label is not None:
        examine_classifier(joined(run.images, run.attack.others), config.classifier, "classifier")


def examine_clean_model(run: Experiment) -> None:
    """Fetch the clean model that a removal is given, which may be on the hub. Raises RequestError if it is not there.

    A plan downloads nothing.
    """
    defense = run.config.defense
    key, node = ("defense.removal", defense.removal) if defense.get("repair") else ("defense", defense)
    if getattr(method(node), "needs_clean", False) and node.clean is not None and not run.stages.planning:
        checkpoint.fetch(node.clean, f"{key}.clean=")


def train_suspect(run: Experiment, start: InitialWeights) -> Stage:
    """Train the suspect under the run's attack, whose surrogate and trigger are learned first where it has any.

    A trigger that is learned with the model is the run's from then on.
    """
    config, stages, attack = run.config, run.stages, run.attack
    if attack.poison_rate == 0:  # nothing to attack with: one clean model serves every trigger and target
        return train_clean(stages, run.setup, "train", run.train, start)
    key, surrogate = attack_key(attack, config.attack), None
    if attack.needs_surrogate:
        name = "surrogate" if config.get("surrogate") else "classifier"
        surrogate, facts = train_classifier(stages, run.images, config[name], name, name)
        key["surrogate"] = facts["key"]
    attack.prepare(Parts(run.diffusion.schedule_here, surrogate))
    if attack.learn:
        settings = without(config.attack, *as_before(attack, config.attack))
        trigger = learn_trigger(
            stages, run.setup, attack, settings, key.get("surrogate"), start, config.train.precision
        )
        run.pictures = replace(run.pictures, trigger=trigger)
        attack.trigger = trigger.to(stages.device)
    if stages.main:
        for mark in run.marks:
            log.warning("train: %s", mark)
    model = train_denoiser(stages, run.setup, "train", attack, key, run.train, start)
    if attack.learns_with_model:
        run.pictures = replace(run.pictures, trigger=attack.trigger.to(torch.device("cpu")))
    return model


def prepare_measuring(run: Experiment) -> Measuring:
    """Return how the run's samples are measured; the features and statistics that this takes are made first."""
    config, stages, measures = run.config, run.stages, run.measures
    metric, count = config.metric, config.sample.count
    features = feature_extractor(stages, run.images, measures, metric.fid, config.classifier)
    distance = (
        distance_to_reference(stages, features, run.data, measures.published, metric, count) if features else None
    )
    target, key = run.pictures.target, run.pictures.keys["target"]
    triggered = run.attack.starts_samples
    goal = target_class(stages, run.attack, run.data, config.classifier)
    return Measuring(metric, config.sample, target, key, triggered, run.marks, distance, measures.lpips, goal)


def expectation(protocol: dict[str, Any], opens: bool) -> dict[str, Any]:
    """Return the protocol of the attack's success, with whether the sampler was expected to open the backdoor."""
    success = [name for name in ("asr", "class_asr") if "absent" not in protocol.get(name, {"absent": ""})]
    return {name: protocol[name] | {"expected": opens} for name in success}


def clean_samples(run: Experiment, suspect: Stage, start: InitialWeights) -> Clean:
    """Return what the clean model makes of the suspect's noise: the model it started from, or its clean reference."""
    model, words = clean_model(run.stages, run.setup, run.attack, run.train, start)
    digests = {weights_digest(str(one.folder / "model")) for one in (model, suspect)}
    samples = draw_samples(run.stages, run.sampling, model, run.kinds, "clean_sample")
    return Clean(samples, words, same=len(digests) == 1)


def compiled_protocol(stages: Stages) -> dict[str, Any]:
    """Return which stages evaluated their networks in compiled mode, and how far that was from eager mode; if any."""
    modes = {
        name: {purpose: mode["difference"] for purpose, mode in made["compiled"].items()}
        for name, made in stages.provenance.items()
        if made.get("compiled")
    }
    return {"compiled": {"difference from eager": modes}} if modes else {}


def sampler_protocol(config: DictConfig) -> dict[str, Any]:
    """Return what has to be known of the sampler to compare samples, the timestep at which it starts among it."""
    scheduler, steps = plain(config.sampler.scheduler), config.sample.steps
    first = first_timestep(scheduler, steps, config.schedule.num_train_timesteps)
    about = {"name": class_of(scheduler), "steps": steps, "first_t": first, "clip": config.sample.clip}
    marks = start_marks(plain(config.schedule))
    return about | plain(config.sampler.step) | ({"marks": marks} if marks else {})
