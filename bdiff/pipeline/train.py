"""The training stage: the suspect, clean models beside it, and what a training starts from."""

import logging
import math
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from bdiff.attack.base import Attack
from bdiff.attack.none import NoAttack
from bdiff.common.errors import RequestError
from bdiff.common.seeds import seed_of
from bdiff.config.instantiate import around, defaults
from bdiff.data.base import Images
from bdiff.data.joined import joined
from bdiff.diffusion.denoiser import EPSILON, Denoiser
from bdiff.diffusion.objective import denoising_loss
from bdiff.diffusion.schedule import Schedule
from bdiff.diffusion.training import TrainConfig, fit, row_stream
from bdiff.model import checkpoint
from bdiff.pipeline.prepare import Pictures, resident, train_config, without
from bdiff.pipeline.stages import Stages, unknown
from bdiff.pipeline.suspect import Diffusion
from bdiff.store.artifacts import Stage

log = logging.getLogger(__name__)


class InitialWeights(NamedTuple):
    """What a training starts from."""

    folder: str | None  # a diffusers folder or hub id; None for fresh weights
    identity: str | None  # what keys say of it
    prediction: str  # what the network predicts, see `Denoiser`


@dataclass(frozen=True)
class TrainingSetup:
    """What all trainings of a denoiser in a run have in common."""

    unet: dict[str, Any]  # the network's arguments
    diffusion: Diffusion
    images: Images
    pictures: Pictures
    seed: int
    about: dict[str, Any]  # conf/trigger, conf/target and conf/data, for the checkpoint's sidecar


def train_denoiser(
    stages: Stages,
    setup: TrainingSetup,
    name: str,  # what logs and metrics.json call this training
    attack: Attack,
    attack_key: dict[str, Any],
    train: TrainConfig,
    start: InitialWeights,
) -> Stage:
    """Train a denoiser under `attack`; the stage's `model` folder is a stock diffusers checkpoint."""
    images, diffusion, seed = joined(setup.images, attack.others), setup.diffusion, setup.seed
    plan = attack.rows(setup.images.labels, seed_of(seed, "poison"))
    index, poisoned = plan
    train = in_steps(train, index)
    as_it_was = start.folder is not None and not train.steps  # whatever there is to be shown to it
    shown = {"data": setup.images.fingerprint, "flip": images.flip, "train": asdict(train), "seed": seed}
    stage = stages.stage(
        "train",
        unet=setup.unet,
        start=start.identity,
        prediction=start.prediction,
        schedule=diffusion.key,
        attack=attack_key,
        **({"train": {"steps": 0}} if as_it_was else shown),
        **{part: setup.pictures.keys[part] for part in attack.reads},
    )

    def build() -> dict[str, Any]:
        torch.manual_seed(seed_of(seed, "weights"))
        unet = checkpoint.build(setup.unet, start.folder)
        denoiser = Denoiser(unet, diffusion.schedule, diffusion.shape, diffusion.device, start.prediction)
        log.info(
            "%s: %d images, %d of %d rows poisoned, %.2f M weights, %d steps in %s on %s",
            name,
            len(images),
            int(poisoned.sum()),
            len(index),
            sum(weight.numel() for weight in unet.parameters()) / 1e6,
            train.steps,
            train.precision,
            diffusion.device,
        )
        here = resident(images, diffusion.device)
        attack.prepare_rows(here, plan)
        rows, schedule = poisoned.to(diffusion.device), denoiser.schedule
        loss = denoising_loss(attack.poison, schedule, rows, images.flip, denoiser.prediction)
        session = stages.session(stage, name, "pretrain.train" if name == "pretrain" else "train")
        fit(denoiser, loss, here, index, train, seed_of(seed, "train"), session, attack)
        if stages.main:
            about = attack_key | ({"learn": attack.learn} if attack.learn else {})
            facts = ({} if as_it_was else setup.about) | {"attack": about, "key": stage.key}
            checkpoint.save(stage.folder / "model", denoiser, facts, attack.state_dict())
        return {"images": 0, "poisoned": 0} if as_it_was else {"images": len(images), "poisoned": int(poisoned.sum())}

    stages.once(stage, build, name, together=True, history=True)
    attack.load_state_dict(learned(stages, stage, attack))
    return stage


def in_steps(train: TrainConfig, index: Tensor) -> TrainConfig:
    """Return the training of the rows `index` with its length in steps."""
    return replace(train, steps=train.total(len(index)), epochs=None)


def learned(stages: Stages, stage: Stage, attack: Attack) -> dict[str, Tensor]:
    """Return what the attack has learned with the stage's model; what nobody knows, where that is only planned."""
    folder = stage.folder / "model"
    if stages.planning and not folder.exists():
        return {name: unknown(stage.folder / name, one.shape) for name, one in attack.state_dict().items()}
    return checkpoint.learned(folder, stages.device)


def attack_key(attack: Attack, settings: DictConfig) -> dict[str, Any]:
    """Return what a training's key says of an attack with the `settings` of conf/attack."""
    # What is learned is the trigger, which has its own part of the key, and of foreign data the images count.
    parts = without(settings, "learn", "foreign", "foreign_path", *around(settings), *as_before(attack, settings))
    others = {"others": attack.others.fingerprint} if attack.others is not None else {}
    return parts | others | ({"version": attack.version} if attack.version > 1 else {})


def as_before(attack: Attack, settings: DictConfig) -> list[str]:
    """Return the later settings of an attack that are at their default: with them it is what it was without them."""
    new = defaults(settings)
    return [name for name in attack.later if settings.get(name) == new[name]]


def train_clean(stages: Stages, setup: TrainingSetup, name: str, train: TrainConfig, start: InitialWeights) -> Stage:
    """Train the clean model, from `start`: what a run with attack=none would train."""
    attack = NoAttack(setup.pictures.trigger, setup.pictures.target)
    key = {"_target_": f"{NoAttack.__module__}.{NoAttack.__qualname__}"}
    return train_denoiser(stages, setup, name, attack, key, train, start)


def clean_model(
    stages: Stages, setup: TrainingSetup, attack: Attack, train: TrainConfig, start: InitialWeights
) -> tuple[Stage, str]:
    """Return the clean model, and in words which: what training started from, or one trained beside.

    The latter for as many steps as the suspect, to which `attack` may have shown more rows.
    """
    if start.folder is None:
        train = in_steps(train, attack.rows(setup.images.labels, seed_of(setup.seed, "poison")).shown)
        return train_clean(stages, setup, "clean", train, start), "the same training without the attack"
    untrained = replace(train, steps=0)
    return train_clean(stages, setup, "clean", untrained, start), "the model that training started from"


def initial_weights(stages: Stages, setup: TrainingSetup, model: DictConfig, pretrain: DictConfig) -> InitialWeights:
    """Return what training starts from: conf/model's checkpoint, or a clean model trained from it by conf/pretrain."""
    predicted = prediction(model, stages.planning)
    start = InitialWeights(model.pretrained, checkpoint.weights_digest(model.pretrained), predicted)
    if pretrain.train is None:
        return start
    stage = train_clean(stages, setup, "pretrain", train_config(pretrain.train), start)
    return InitialWeights(str(stage.folder / "model"), stage.key, start.prediction)


def prediction(model: DictConfig, planning: bool) -> str:
    """Return what the network predicts: what the checkpoint says that training starts from, or model.prediction.

    Where it is only planned and the checkpoint is not here, it is taken for one that predicts noise.
    """
    asked = model.get("prediction", "auto")
    if model.pretrained is None or (planning and not checkpoint.here(model.pretrained)):
        return EPSILON if asked == "auto" else str(asked)
    found = checkpoint.prediction_of(checkpoint.fetch(model.pretrained))
    if asked not in ("auto", found):
        raise RequestError(
            f"model.prediction={asked}, but {model.pretrained} predicts {found}: leave model.prediction=auto"
        )
    return found


def training_marks(
    attack: Attack, labels: Tensor, train: TrainConfig, seed: int, schedule: Schedule, prediction: str
) -> list[str]:
    """Return that training is too short to show a poisoned row, and what these ask of a network of this prediction."""
    if attack.poison_rate == 0:
        return []
    marks = [problem] if (problem := attack.prediction_problem(schedule, prediction)) else []
    index, poisoned = attack.rows(labels, seed_of(seed, "poison"))
    steps = train.total(len(index))
    epoch = math.ceil(len(index) / train.batch_size)  # in which all rows are shown
    shown = islice(row_stream(len(index), train.batch_size, seed_of(seed, "train")), min(steps, epoch))
    if any(poisoned[rows].any() for rows in shown):
        return marks
    short = f"training steps, {steps}, show no poisoned row: a backdoor can only be that of the model it started from"
    return [*marks, short]
