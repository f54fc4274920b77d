"""The training stage: the suspect, clean models beside it, and what a training starts from."""

import logging
import math
import shutil
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from omegaconf import DictConfig

from bdiff.attack.base import Attack, Parts
from bdiff.attack.none import NoAttack
from bdiff.common.errors import RequestError
from bdiff.common.seeds import seed_of
from bdiff.diffusion.denoiser import EPSILON, Denoiser
from bdiff.diffusion.objective import denoising_loss
from bdiff.diffusion.training import Session, TrainConfig, fit, row_stream
from bdiff.model import checkpoint
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.prepare import plain, resident, without
from bdiff.pipeline.reference import train_classifier
from bdiff.pipeline.start import InitialWeights
from bdiff.pipeline.trigger import learn_trigger
from bdiff.store.artifacts import Stage

log = logging.getLogger(__name__)


def train(run: Experiment, start: InitialWeights) -> Stage:
    """Train the suspect model; the stage's `model` folder is a stock diffusers checkpoint."""
    if run.attack.poison_rate == 0:  # nothing to attack with: one clean model serves every trigger and target
        return clean(run, "train", run.config.train, start)
    parts = without(run.config.attack, "learn")  # what is learned is the trigger, which has its own part of the key
    if run.attack.version > 1:
        parts["version"] = run.attack.version
    surrogate = None
    if run.attack.needs_surrogate:
        surrogate, facts = train_classifier(run, "surrogate" if run.config.get("surrogate") else "classifier")
        parts["surrogate"] = facts["key"]
    run.attack.prepare(Parts(run.schedule.to(run.device), surrogate))
    if run.attack.learn:
        learn_trigger(run, start, parts["surrogate"])
    if run.main:
        for doubt in unshown(run):
            log.warning("train: %s", doubt)
    return train_denoiser(run, "train", run.attack, parts, run.config.train, start)


def unshown(run: Experiment) -> list[str]:
    """Return, as the only line, that training is too short to show the suspect a row that the attack has poisoned."""
    config = run.config
    if run.attack.poison_rate == 0:
        return []
    index, poisoned = run.attack.rows(run.images.labels, seed_of(config.seed, "poison"))
    recipe = TrainConfig(**plain(config.train))
    steps = recipe.total(len(index))
    epoch = math.ceil(len(index) / recipe.batch_size)  # in which all rows are shown
    shown = islice(row_stream(len(index), recipe.batch_size, seed_of(config.seed, "train")), min(steps, epoch))
    if any(poisoned[rows].any() for rows in shown):
        return []
    told = f"training steps, {steps}, show no poisoned row"
    return [f"{told}: a backdoor can only be that of the model it started from"]


def clean(run: Experiment, name: str, recipe: DictConfig, start: InitialWeights) -> Stage:
    """Train the model that nobody attacked, by `recipe` from `start`: what an attack=none run with it would train."""
    attack = {"_target_": f"{NoAttack.__module__}.{NoAttack.__qualname__}"}
    return train_denoiser(run, name, NoAttack(run.trigger, run.target), attack, recipe, start)


def clean_model(run: Experiment, start: InitialWeights) -> tuple[Stage, str]:
    """Return the model that nobody attacked, and in words which: what training started from, or one trained beside."""
    if start.folder is None:
        return clean(run, "clean", run.config.train, start), "the same training without the attack"
    untrained = run.config.train.copy()
    untrained.steps = 0
    return clean(run, "clean", untrained, start), "the model that training started from"


def beginning(run: Experiment) -> InitialWeights:
    """Return what training starts from: model.pretrained, or a clean model trained from it if `pretrain` says so."""
    pretrained = run.config.model.pretrained
    start = InitialWeights(pretrained, checkpoint.weights_digest(pretrained), prediction(run))
    if run.config.pretrain.train is None:
        return start
    stage = clean(run, "pretrain", run.config.pretrain.train, start)
    return InitialWeights(str(stage.folder / "model"), stage.key, start.prediction)


def prediction(run: Experiment) -> str:
    """Return what the network predicts: what the checkpoint says that training starts from, or model.prediction."""
    wanted, pretrained = run.config.model.get("prediction", "auto"), run.config.model.pretrained
    if pretrained is None:
        return EPSILON if wanted == "auto" else str(wanted)
    found = checkpoint.prediction_of(checkpoint.fetch(pretrained))
    if wanted not in ("auto", found):
        raise RequestError(f"model.prediction={wanted}, but {pretrained} predicts {found}: leave model.prediction=auto")
    return found


def train_denoiser(
    run: Experiment,
    name: str,  # what logs and metrics.json call this training
    attack: Attack,
    attack_parts: dict[str, Any],  # the config of `attack`, for the key
    recipe_config: DictConfig,
    start: InitialWeights,
) -> Stage:
    """Train a denoiser under `attack`, once for all runs that ask for the same."""
    config = run.config
    plan = attack.rows(run.images.labels, seed_of(config.seed, "poison"))
    index, poisoned = plan
    recipe = TrainConfig(**plain(recipe_config))
    recipe = replace(recipe, steps=recipe.total(len(index)), epochs=None)
    stage = run.stage(
        "train",
        unet=plain(config.model.unet),
        start=start.identity,
        prediction=start.prediction,
        schedule=plain(config.schedule),
        attack=attack_parts,
        data=run.images.fingerprint,
        flip=run.images.flip,
        train=asdict(recipe),
        seed=config.seed,
        **{part: run.pictures[part] for part in attack.reads},
    )
    with run.training(stage, name) as missing:
        if missing:
            torch.manual_seed(seed_of(config.seed, "weights"))
            unet = checkpoint.build(plain(config.model.unet), start.folder)
            denoiser = Denoiser(unet, run.schedule, run.images.shape, run.device, start.prediction)
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
            attack.prepare_rows(images, plan)
            poison, schedule = attack.poison, denoiser.schedule
            fit(
                denoiser,
                denoising_loss(poison, schedule, poisoned.to(run.device), run.images.flip, denoiser.prediction),
                images,
                index,
                recipe,
                seed_of(config.seed, "train"),
                Session(stage.folder, run.loop, run.accelerator, name, partial(run.record, name), run.costs),
                attack,
            )
            if run.main:
                facts = {part: plain(config[part]) for part in ("trigger", "target", "data")}
                checkpoint.save(
                    stage.folder / "model",
                    denoiser,
                    facts
                    | {"attack": attack_parts | ({"learn": attack.learn} if attack.learn else {}), "key": stage.key},
                    attack.state_dict(),
                )
                shutil.rmtree(stage.folder / "state", ignore_errors=True)
            run.finish(stage, images=len(run.images), poisoned=int(poisoned.sum()))
    attack.load_state_dict(checkpoint.learned(stage.folder / "model", run.device))
    return stage
