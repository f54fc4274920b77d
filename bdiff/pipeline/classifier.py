"""The classifier stage: a classifier of the run's data, trained once for all runs that ask, or taken from a file."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bdiff.classifier.base import Classifier, accuracy
from bdiff.classifier.weights import load_weights
from bdiff.common.device import Alone
from bdiff.common.errors import named
from bdiff.common.seeds import seed_of
from bdiff.config.instantiate import make
from bdiff.config.keys import plain
from bdiff.data.base import Images
from bdiff.diffusion.classification import classification_loss
from bdiff.diffusion.training import Session, fit
from bdiff.metric.weights import file_hash
from bdiff.pipeline.prepare import resident, train_config
from bdiff.pipeline.stages import Stages
from bdiff.store import artifacts

log = logging.getLogger(__name__)


def train_classifier(
    stages: Stages, images: Images, config: DictConfig, name: str = "classifier", key: str = "classifier"
) -> tuple[Classifier, dict[str, Any]]:
    """Return the classifier of a node of conf/classifier on the images, and what is known of it.

    `name` is what the run's record calls it, and `key` the request's key of the node: classifier, or surrogate for the
    attacker's own. Raises RequestError if the file of its `weights` does not fit.
    """
    model = build_classifier(images, config, key)
    parts, train = plain(config), train_config(config.train)
    given = parts.pop("weights", None)  # runs of earlier versions, without this key, can be run again
    if given is not None:  # keys hold the file's content, not its place
        parts |= {"weights": file_hash(Path(given).expanduser()), "train": None}
        train = replace(train, steps=0)
    if parts["model"].get("path") is not None:
        parts["model"]["path"] = file_hash(Path(parts["model"]["path"]).expanduser())
    stage = stages.stage("classifier", classifier=parts, data=images.fingerprint, flip=images.flip)
    path, device = stage.folder / "model.safetensors", stages.device
    alone = trains_alone(stages, model)

    def build() -> dict[str, Any]:
        if alone:
            log.info("%s: BatchNorm needs whole batches, so the first process trains it alone", name)
        here = resident(images, device)
        kept, used = held_out(config, len(here))
        labels = here.labels[used].to(device)
        loss = classification_loss(labels, config.label_smoothing, here.flip, config.random_crop_padding)
        accelerator = Alone(device) if alone else stages.accelerator
        session = Session(stage.folder, stages.loop, accelerator, name, costs=stages.costs, settings=f"{key}.train")
        fit(model, loss, here, used, train, seed_of(config.seed, "train"), session)
        right = accuracy(model, here, kept, device)
        log.info("%s: %.1f %% of %d %s right", name, 100 * right, len(kept), unseen(config))
        if stages.main:
            with artifacts.atomic(path) as scratch:
                save_model(model, str(scratch))
        return {"accuracy": right, "held_out": len(kept)}

    manifest = stages.once(stage, build, name, together=not alone)
    if not stages.planning or path.exists():
        load_model(model, path)
    return model.to(device).eval(), {"key": stage.key, "accuracy": manifest["accuracy"], "on": unseen(config)}


def build_classifier(images: Images, config: DictConfig, key: str) -> Classifier:
    """Return the classifier of the request's key `key`, with fresh weights or those of its file."""
    torch.manual_seed(seed_of(config.seed, "weights"))
    with named("classifier.model", f"{key}.model"):
        model: Classifier = make(config.model, channels=images.shape[0], classes=len(images.classes))
    if config.get("weights") is not None:  # a key that configs of earlier versions lack
        load_weights(model, config.weights, f"{key}.weights")
    return model


def examine_classifier(images: Images, config: DictConfig, key: str) -> None:
    """Raise RequestError if the classifier's file of weights does not fit, before anything is trained."""
    if config.get("weights") is not None or config.model.get("path") is not None:
        build_classifier(images, config, key)


def trains_alone(stages: Stages, model: nn.Module) -> bool:
    """Return whether one process of several has to train `model`, so that it becomes what one alone would make of it.

    BatchNorm takes its statistics over the rows that a process sees, and these are a fraction of the batch.
    """
    return stages.accelerator.num_processes > 1 and any(isinstance(part, _BatchNorm) for part in model.modules())


def unseen(config: DictConfig) -> str:
    """Return in words what the images are to the classifier of conf/classifier that `held_out` keeps from it."""
    elsewhere = config.get("weights") is not None or config.model.get("path") is not None
    return "images that its file may have been trained on" if elsewhere else "images held out from its training"


def held_out(config: DictConfig, count: int) -> tuple[Tensor, Tensor]:
    """Return which of `count` images conf/classifier holds out from its training, (k,) int64, and all others.

    One at least of either, where there are two.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(config.seed, "hold out")))
    kept, used = order.tensor_split([max(1, min(round(config.val_fraction * count), count - 1))])
    return kept, used
