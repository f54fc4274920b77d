"""What samples are held against: the classifier whose features may serve, and the reference images' statistics."""

import logging
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from safetensors.torch import load_model, save_file, save_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bdiff.classifier.base import Classifier, accuracy
from bdiff.classifier.weights import load_weights
from bdiff.common.device import Alone
from bdiff.common.progress import Meter, progress
from bdiff.common.seeds import generator, seed_of
from bdiff.config.instantiate import make
from bdiff.data.base import Images, batches
from bdiff.diffusion.classification import classification_loss
from bdiff.diffusion.training import Session, TrainConfig, fit
from bdiff.metric.fid import moments
from bdiff.metric.fid.base import Features, Frechet, Remembering
from bdiff.metric.fid.protocol import PRESETS
from bdiff.metric.weights import file_hash
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.prepare import extractor, plain, resident
from bdiff.store import artifacts
from bdiff.store.artifacts import Stage

log = logging.getLogger(__name__)

#: activations kept of each side, for measures that need them one by one; FID keeps none
KEPT = 10_000


def train_classifier(run: Experiment, name: str = "classifier") -> tuple[Classifier, dict[str, Any]]:
    """Return the classifier of conf/classifier on the run's data, trained once or from a file, and what is known of it.

    `name` is the key of the request that it is configured by: classifier, or surrogate for the attacker's own.
    Raises RequestError if the file of its `weights` does not fit.
    """
    config = run.config[name]
    model = build_classifier(run, name)
    parts, recipe = plain(config), TrainConfig(**plain(config.train))
    given = parts.pop("weights", None)  # runs of before this key can be run again
    if given is not None:  # keys hold the file's content, not its place
        parts |= {"weights": file_hash(Path(given).expanduser()), "train": None}
        recipe = replace(recipe, steps=0)
    if parts["model"].get("path") is not None:
        parts["model"]["path"] = file_hash(Path(parts["model"]["path"]).expanduser())
    stage = run.stage("classifier", classifier=parts, data=run.images.fingerprint, flip=run.images.flip)
    with run.building(stage, name) as missing:
        alone = by_one(run, model, name)
        if missing and (run.main or not alone):
            images = resident(run.images, run.device)
            kept, used = held_out(config, len(images))
            labels = images.labels[used].to(run.device)
            fit(
                model,
                classification_loss(labels, config.label_smoothing, images.flip, config.random_crop_padding),
                images,
                used,
                recipe,
                seed_of(config.seed, "train"),
                Session(stage.folder, run.loop, Alone(run.device) if alone else run.accelerator, name, costs=run.costs),
            )
            share = accuracy(model, images, kept, run.device)
            log.info("%s: %.1f %% of %d %s right", name, 100 * share, len(kept), unseen(config))
            if run.main:
                with artifacts.atomic(stage.folder / "model.safetensors") as scratch:
                    save_model(model, str(scratch))
                shutil.rmtree(stage.folder / "state", ignore_errors=True)
            run.finish(stage, accuracy=share, held_out=len(kept))
    load_model(model, stage.folder / "model.safetensors")
    manifest = stage.manifest
    assert manifest is not None
    return model.to(run.device).eval(), {"key": stage.key, "accuracy": manifest["accuracy"], "on": unseen(config)}


def build_classifier(run: Experiment, name: str) -> Classifier:
    """Return the classifier of the request's key `name`, with fresh weights or those of its file."""
    config = run.config[name]
    torch.manual_seed(seed_of(config.seed, "weights"))
    model: Classifier = make(config.model, channels=run.images.shape[0], classes=len(run.images.classes))
    if config.get("weights") is not None:  # a key that configs of before lack
        load_weights(model, config.weights, f"{name}.weights")
    return model


def examine_classifiers(run: Experiment) -> None:
    """Raise RequestError if a classifier's file of weights does not fit, before anything is trained."""
    for name in ("classifier", "surrogate"):
        config = run.config.get(name)
        if config and (config.get("weights") is not None or config.model.get("path") is not None):
            build_classifier(run, name)


def by_one(run: Experiment, model: nn.Module, name: str) -> bool:
    """Return whether one process of several has to train `model`, so that it becomes what one alone would make of it.

    BatchNorm takes its statistics over the rows that a process sees, and these are a share of the batch.
    """
    alone = run.accelerator.num_processes > 1 and any(isinstance(part, _BatchNorm) for part in model.modules())
    if alone and run.main:
        log.info("%s: its BatchNorm wants whole batches, so the first process trains it alone", name)
    return alone


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


def feature_extractor(run: Experiment) -> Features | None:
    """Return what the Fréchet distance is taken over, or None if it is not asked for."""
    if run.measures.features is None and run.measures.needs_classifier:
        classifier, facts = train_classifier(run)
        run.measures.features = make(extractor(run.config.metric.fid), classifier=classifier, facts=facts)
    return run.measures.features.to(run.device).eval() if run.measures.features else None


class Reference(NamedTuple):
    """Statistics that samples are held against."""

    path: Path  # of the .npz
    identity: str  # what keys say of it
    images: int | None  # how many; None where a file does not say
    facts: dict[str, Any]  # for the protocol


def reference(run: Experiment, features: Features) -> Reference:
    """Return the statistics of the reference images, taken once per data and extractor; or those the user gives."""
    if run.measures.published is not None:
        path = Path(run.measures.published).expanduser()
        sha256, count = file_hash(path), moments.read(path).count
        facts = {"reference": path.name, "reference_sha256": sha256, "reference_count": count or "not in the file"}
        return Reference(path, sha256, count, facts)
    images = run.data.reference
    assert images is not None
    stage = run.stage("reference", data=images.fingerprint, features=features.identity())
    path = stage.folder / "reference.npz"
    with run.missing(stage) as missing:
        if missing:
            frechet = Frechet(features, run.device)
            frechet.feed(streamed(run, images, torch.arange(len(images)), "reference"), real=True)
            with artifacts.atomic(path) as scratch:
                moments.write(scratch, frechet.reference)
            log.info("reference: mu and sigma of %d images in %s", len(images), path)
            run.finish(stage, images=len(images))
    whole = PRESETS[run.config.metric.fid.protocol].split not in (None, images.split)
    told = (
        f"{images.name} {images.split}{' (all of it: the data has no splits)' if whole else ''}, {images.fingerprint}"
    )
    return Reference(path, stage.key, len(images), {"reference": told, "reference_count": len(images)})


def reference_activations(run: Experiment, features: Features) -> Stage:
    """Keep the activations of at most `KEPT` reference images, drawn at random, the same each time."""
    images = run.data.reference
    assert images is not None
    stage = run.stage("activations", data=images.fingerprint, features=features.identity(), most=KEPT)
    with run.missing(stage) as missing:
        if missing:
            rows = torch.randperm(len(images), generator=generator("activations"))[:KEPT].sort().values
            remembering = Remembering(features, KEPT)
            with torch.inference_mode():
                for pixels in streamed(run, images, rows, "activations"):
                    remembering(pixels)
            with artifacts.atomic(stage.folder / "activations.safetensors") as scratch:
                save_file({"activations": remembering.kept}, scratch)
            run.finish(stage, images=len(rows))
    return stage


def streamed(run: Experiment, images: Images, rows: Tensor, name: str) -> Iterator[Tensor]:
    """Yield the images at `rows` (n,) batch by batch on the device, with a progress bar called `name`."""
    parts = rows.split(run.config.metric.batch_size)
    with progress(name, len(parts), unit="batches", every=run.config.runtime.progress) as meter:
        yield from metered(batches(images, parts, run.device, run.config.runtime.workers), meter)


def metered(batches: Iterable[Tensor], meter: Meter) -> Iterator[Tensor]:
    """Yield `batches`, counting them."""
    for batch in batches:
        yield batch
        meter.advance()
