"""One experiment, from a composed config to metrics.json: the stages in order. Read this file first.

data -> train -> sample -> measure, each kept under a key of all that it depends on, so that the same request again
reuses what is there, and a killed one goes on.
"""

import logging
import shutil
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file

from bdiff.attack.base import Attack
from bdiff.attack.none import NoAttack
from bdiff.context import Experiment, plain, resident
from bdiff.data.base import to_float, to_uint8
from bdiff.measure import Clean, measure
from bdiff.model import checkpoint
from bdiff.sample import sample, shards
from bdiff.seeds import seed_of
from bdiff.store import Stage
from bdiff.tracker.none import NoTracker
from bdiff.train import Recipe, denoising_loss, fit, read_history

log = logging.getLogger(__name__)


class Start(NamedTuple):
    """What a training starts from."""

    folder: str | None  # a diffusers folder or hub id; None for fresh weights
    identity: str | None  # what keys say of it


def train(run: Experiment, start: Start) -> Stage:
    """Train the suspect model; the stage's `model` folder is a stock diffusers checkpoint."""
    if run.attack.poison_rate == 0:  # nothing to attack with: one clean model serves every trigger and target
        return clean(run, "train", run.config.train, start)
    return train_denoiser(run, "train", run.attack, plain(run.config.attack), run.config.train, start)


def clean(run: Experiment, name: str, recipe: DictConfig, start: Start) -> Stage:
    """Train the model that nobody attacked, by `recipe` from `start`: what an attack=none run with it would train."""
    attack = {"_target_": f"{NoAttack.__module__}.{NoAttack.__qualname__}"}
    return train_denoiser(run, name, NoAttack(run.trigger, run.target), attack, recipe, start)


def beginning(run: Experiment) -> Start:
    """Return what training starts from: model.pretrained, or a clean model trained from it if `pretrain` says so."""
    pretrained = run.config.model.pretrained
    start = Start(pretrained, checkpoint.weights_digest(pretrained))
    if run.config.pretrain.train is None:
        return start
    stage = clean(run, "pretrain", run.config.pretrain.train, start)
    return Start(str(stage.folder / "model"), stage.key)


def train_denoiser(
    run: Experiment,
    name: str,  # what logs and metrics.json call this training
    attack: Attack,
    attack_parts: dict[str, Any],  # the config of `attack`, for the key
    recipe_config: DictConfig,
    start: Start,
) -> Stage:
    """Train a denoiser under `attack`, once for all runs that ask for the same."""
    config = run.config
    index, poisoned = attack.plan(len(run.images), seed_of(config.seed, "poison"))
    recipe = Recipe(**plain(recipe_config))
    recipe = replace(recipe, steps=recipe.total(len(index)), epochs=None)
    stage = run.stage(
        "train",
        unet=plain(config.model.unet),
        start=start.identity,
        schedule=plain(config.schedule),
        attack=attack_parts,
        data=run.images.fingerprint,
        flip=run.images.flip,
        train=asdict(recipe),
        seed=config.seed,
        **{part: run.pictures[part] for part in attack.reads},
    )
    with run.building(stage, name) as missing:
        if missing:
            began = time.monotonic()
            torch.manual_seed(seed_of(config.seed, "weights"))
            unet = checkpoint.build(plain(config.model.unet), start.folder, run.schedule)
            log.info(
                "%s: %d images, %d of %d rows poisoned, %.2f M weights, %d steps in %s on %s",
                name,
                len(run.images),
                int(poisoned.sum()),
                len(index),
                sum(weight.numel() for weight in unet.parameters()) / 1e6,
                recipe.steps,
                recipe.precision,
                run.device,
            )
            fit(
                unet,
                denoising_loss(
                    attack,
                    run.schedule.to(run.device),
                    poisoned.to(run.device),
                    run.images.flip,
                ),
                resident(run.images, run.device),
                index,
                recipe,
                seed=seed_of(config.seed, "train"),
                folder=stage.folder,
                loop=run.loop,
                accelerator=run.accelerator,
                name=name,
                record=partial(run.record, name),
            )
            if run.accelerator.is_main_process:
                facts = {part: plain(config[part]) for part in ("trigger", "target", "data")}
                checkpoint.save(
                    stage.folder / "model", unet, run.schedule, facts | {"attack": attack_parts, "key": stage.key}
                )
                shutil.rmtree(stage.folder / "state", ignore_errors=True)
            run.finish(stage, began, images=len(run.images), poisoned=int(poisoned.sum()))
        elif run.accelerator.is_main_process:
            for row in read_history(stage.folder / "history.jsonl"):
                run.record(name, row)
    return stage


def unharmed(run: Experiment, start: Start) -> Clean:
    """Return what the clean model makes of the suspect's noise: the model it started from, or its twin."""
    if start.folder is None:
        model = clean(run, "clean", run.config.train, start)
        return Clean(draw_samples(run, model, "clean_sample"), "the same training without the attack")
    untrained = run.config.train.copy()
    untrained.steps = 0
    model = clean(run, "clean", untrained, start)
    return Clean(draw_samples(run, model, "clean_sample"), "the model that training started from")


def draw_samples(run: Experiment, model: Stage, name: str = "sample") -> Stage:
    """Sample clean and triggered images from the model of `model`; logs and metrics.json call it `name`."""
    config = run.config
    stage = run.stage(
        "sample",
        model=model.key,
        schedule=plain(config.schedule),
        sampler=plain(config.sampler),
        sample=plain(config.sample),
        attack=config.attack._target_,
        trigger=run.pictures["trigger"],
        seed=config.seed,
    )
    with run.building(stage, name) as missing:
        if missing:
            began = time.monotonic()
            sample(
                checkpoint.load(model.folder / "model"),
                run.scheduler,
                run.attack,
                shape=run.images.shape,
                count=config.sample.count,
                batch_size=config.sample.batch_size,
                steps=config.sample.steps,
                step_options=plain(config.sampler.step),
                precision=config.sample.precision,
                seed=seed_of(config.seed, "samples"),
                folder=stage.folder / "shards",
                accelerator=run.accelerator,
                trajectory=stage.folder / "trajectory.safetensors",
                every=config.runtime.progress,
            )
            run.accelerator.wait_for_everyone()
            run.finish(stage, began, images=config.sample.count)
    return stage


def run_experiment(config: DictConfig, folder: Path, tracker: NoTracker) -> dict[str, Any]:
    """Carry out the request and return what metrics.json says of it, pictures in `folder`/figures."""
    run = Experiment(config, tracker)
    start = beginning(run)
    model = train(run, start)
    samples = draw_samples(run, model)
    measured = measure(run, samples, unharmed(run, start) if "sample_psnr" in config.metric.also else None)
    if run.accelerator.is_main_process:
        pictures(run, model, samples, folder, measured["metrics"])
    sampler = config.sampler.scheduler._target_.rpartition(".")[2]
    measured["protocol"] |= {
        "sampler": {"name": sampler, "steps": config.sample.steps, "clip": config.sample.clip}
        | plain(config.sampler.step),
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
    }


def pictures(run: Experiment, model: Stage, samples: Stage, folder: Path, metrics: dict[str, float]) -> None:
    """Write the run's figures and show them to the tracker."""
    from bdiff.report import figures

    first = next(shards(samples.folder / "shards"))
    example = to_float(run.images.take(torch.zeros(1, dtype=torch.long))).cpu()
    singles = {
        "trigger": to_uint8(run.trigger.pattern),
        "target": to_uint8(run.target),
        "stamped example": to_uint8(run.trigger.stamp(example))[0],
    }
    title = f"{run.config.name}   ASR {metrics['suspect/asr']:.3f}   MSE {metrics['suspect/mse']:.3g}"
    sheets = {"samples": first.clean, "samples with the trigger in the same noise": first.triggered}
    place = folder / "figures"
    figures.overview(place / "overview.png", title, singles, sheets)
    for name, image in singles.items():
        figures.picture(place / f"{name.replace(' ', '_')}.png", image)
    for name, images in first._asdict().items():
        figures.sheet(place / f"{name}.png", images)
    states = load_file(samples.folder / "trajectory.safetensors")
    rows = {name: to_uint8(states[name][:, 0]) for name in ("triggered", "clean")}
    figures.trajectory(place / "trajectory.png", states["t"].tolist(), rows)
    history = read_history(model.folder / "history.jsonl")
    if history:
        figures.loss_curve(place / "loss.png", run.config.name, history)
    for shown in ("overview", "trajectory", *(["loss"] if history else [])):
        run.tracker.picture(shown, place / f"{shown}.png")


def device_name(device: torch.device) -> str:
    """Return the device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads != 1)}"
