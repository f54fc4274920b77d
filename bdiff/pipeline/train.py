"""The training stage: the suspect, clean models beside it, and what a training starts from."""

import logging
import math
import shutil
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from bdiff.attack.base import Attack
from bdiff.attack.none import NoAttack
from bdiff.common.seeds import seed_of
from bdiff.diffusion.training import Recipe, denoising_loss, fit, read_history, row_stream
from bdiff.model import checkpoint
from bdiff.pipeline.context import Experiment, plain, resident, without
from bdiff.pipeline.reference import train_classifier
from bdiff.pipeline.trigger import learn_trigger
from bdiff.store.artifacts import Stage

log = logging.getLogger(__name__)


class Start(NamedTuple):
    """What a training starts from."""

    folder: str | None  # a diffusers folder or hub id; None for fresh weights
    identity: str | None  # what keys say of it


def train(run: Experiment, start: Start) -> Stage:
    """Train the suspect model; the stage's `model` folder is a stock diffusers checkpoint."""
    if run.attack.poison_rate == 0:  # nothing to attack with: one clean model serves every trigger and target
        return clean(run, "train", run.config.train, start)
    parts = without(run.config.attack, "learn")  # what is learned is the trigger, which has its own part of the key
    if run.attack.version > 1:
        parts["version"] = run.attack.version
    if run.attack.needs_surrogate:
        surrogate, facts = train_classifier(run, "surrogate" if run.config.get("surrogate") else "classifier")
        run.attack.equip(surrogate, run.schedule.to(run.device))
        parts["surrogate"] = facts["key"]
    if run.attack.learn:
        learn_trigger(run, start.folder, start.identity, parts["surrogate"])
    if run.accelerator.is_main_process:
        for doubt in unshown(run):
            log.warning("train: %s", doubt)
    return train_denoiser(run, "train", run.attack, parts, run.config.train, start)


def unshown(run: Experiment) -> list[str]:
    """Return, as the only line, that training is too short to show the suspect a row that the attack has poisoned."""
    config = run.config
    if run.attack.poison_rate == 0:
        return []
    index, poisoned = run.attack.plan(len(run.images), seed_of(config.seed, "poison"))
    recipe = Recipe(**plain(config.train))
    steps = recipe.total(len(index))
    epoch = math.ceil(len(index) / recipe.batch_size)  # in which all rows are shown
    shown = islice(row_stream(len(index), recipe.batch_size, seed_of(config.seed, "train")), min(steps, epoch))
    if any(poisoned[rows].any() for rows in shown):
        return []
    told = f"training steps, {steps}, show no poisoned row"
    return [f"{told}: a backdoor can only be that of the model it started from"]


def clean(run: Experiment, name: str, recipe: DictConfig, start: Start) -> Stage:
    """Train the model that nobody attacked, by `recipe` from `start`: what an attack=none run with it would train."""
    attack = {"_target_": f"{NoAttack.__module__}.{NoAttack.__qualname__}"}
    return train_denoiser(run, name, NoAttack(run.trigger, run.target), attack, recipe, start)


def clean_model(run: Experiment, start: Start) -> tuple[Stage, str]:
    """Return the model that nobody attacked, and which it is in words: what training started from, or its twin."""
    if start.folder is None:
        return clean(run, "clean", run.config.train, start), "the same training without the attack"
    untrained = run.config.train.copy()
    untrained.steps = 0
    return clean(run, "clean", untrained, start), "the model that training started from"


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
            images = resident(run.images, run.device)
            attack.prepare(images, index, poisoned)
            fit(
                unet,
                denoising_loss(
                    attack.corrupt,
                    run.schedule.to(run.device),
                    poisoned.to(run.device),
                    run.images.flip,
                    attack.timesteps,
                ),
                images,
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
                    stage.folder / "model",
                    unet,
                    run.schedule,
                    facts
                    | {"attack": attack_parts | ({"learn": attack.learn} if attack.learn else {}), "key": stage.key},
                )
                shutil.rmtree(stage.folder / "state", ignore_errors=True)
            run.finish(stage, images=len(run.images), poisoned=int(poisoned.sum()))
        elif run.accelerator.is_main_process:
            for row in read_history(stage.folder / "history.jsonl"):
                run.record(name, row)
    return stage
