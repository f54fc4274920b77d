"""One experiment, from a composed config to metrics.json: the stages in order. Read this file first.

data -> train -> sample -> measure, each kept under a key of all that it depends on, so that the same request again
reuses what is there, and a killed one goes on.
"""

import logging
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from bdiff.context import Experiment, plain, resident
from bdiff.data.base import to_float, to_uint8
from bdiff.measure import measure
from bdiff.model import checkpoint
from bdiff.sample import sample, shards
from bdiff.seeds import seed_of
from bdiff.store import Stage
from bdiff.tracker.none import NoTracker
from bdiff.train import Recipe, denoising_loss, fit, read_history

log = logging.getLogger(__name__)


def train(run: Experiment) -> Stage:
    """Train the suspect model; the stage's `model` folder is a stock diffusers checkpoint."""
    config = run.config
    index, poisoned = run.attack.plan(len(run.images), seed_of(config.seed, "poison"))
    recipe = Recipe(**plain(config.train))
    recipe = replace(recipe, steps=recipe.total(len(index)), epochs=None)
    stage = run.stage(
        "train",
        unet=plain(config.model.unet),
        start=checkpoint.weights_digest(config.model.pretrained),
        schedule=plain(config.schedule),
        attack=plain(config.attack),
        data=run.images.fingerprint,
        flip=run.images.flip,
        train=asdict(recipe),
        seed=config.seed,
        **{name: run.pictures[name] for name in run.attack.reads},
    )
    with run.building(stage) as missing:
        if missing:
            began = time.monotonic()
            torch.manual_seed(seed_of(config.seed, "weights"))
            unet = checkpoint.build(config.model, run.schedule)
            log.info(
                "train: %d images, %d of %d rows poisoned, %.2f M weights, %d steps in %s on %s",
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
                    run.attack,
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
                record=run.record,
            )
            if run.accelerator.is_main_process:
                facts = {name: plain(config[name]) for name in ("attack", "trigger", "target", "data")}
                checkpoint.save(stage.folder / "model", unet, run.schedule, facts | {"key": stage.key})
                shutil.rmtree(stage.folder / "state", ignore_errors=True)
            run.finish(stage, began, images=len(run.images), poisoned=int(poisoned.sum()))
        elif run.accelerator.is_main_process:
            for row in read_history(stage.folder / "history.jsonl"):
                run.record(row)
    return stage


def draw_samples(run: Experiment, model: Stage) -> Stage:
    """Sample clean and triggered images from the model of `model`."""
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
    with run.building(stage) as missing:
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
                every=config.runtime.progress,
            )
            run.accelerator.wait_for_everyone()
            run.finish(stage, began, images=config.sample.count)
    return stage


def run_experiment(config: DictConfig, folder: Path, tracker: NoTracker) -> dict[str, Any]:
    """Carry out the request and return what metrics.json says of it, pictures in `folder`/figures."""
    run = Experiment(config, tracker)
    model = train(run)
    samples = draw_samples(run, model)
    measured = measure(run, samples)
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
    figures.overview(folder / "figures" / "overview.png", title, singles, sheets)
    run.tracker.picture("overview", folder / "figures" / "overview.png")
    history = read_history(model.folder / "history.jsonl")
    if history:
        figures.loss_curve(folder / "figures" / "loss.png", run.config.name, history)
        run.tracker.picture("loss", folder / "figures" / "loss.png")


def device_name(device: torch.device) -> str:
    """Return the device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads"
