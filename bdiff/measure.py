"""The measuring stage, and the classifier and reference moments it needs."""

import logging
import math
import shutil
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor

from bdiff import store
from bdiff.classifier.base import Classifier, accuracy
from bdiff.context import Experiment, plain, resident
from bdiff.data.base import batches
from bdiff.make import make
from bdiff.metric.fid.base import Features, Frechet
from bdiff.metric.target import asr_threshold, compare
from bdiff.progress import Meter, progress
from bdiff.sample import shards
from bdiff.seeds import seed_of
from bdiff.store import Stage
from bdiff.train import Recipe, classification_loss, fit

log = logging.getLogger(__name__)


def train_classifier(run: Experiment) -> tuple[Classifier, dict[str, Any]]:
    """Return the classifier of conf/classifier on the run's data, trained once, and what is known of it."""
    config = run.config.classifier
    stage = run.stage("classifier", classifier=plain(config), data=run.images.fingerprint, flip=run.images.flip)
    torch.manual_seed(seed_of(config.seed, "weights"))
    model = make(config.model, channels=run.images.shape[0], classes=len(run.images.classes))
    with run.building(stage) as missing:
        if missing:
            began = time.monotonic()
            images = resident(run.images, run.device)
            order = torch.randperm(
                len(images), generator=torch.Generator().manual_seed(seed_of(config.seed, "hold out"))
            )
            kept, used = order.tensor_split([max(1, round(config.hold_out * len(images)))])
            fit(
                model,
                classification_loss(images.labels[used].to(run.device), config.smoothing, images.flip, config.shift),
                images,
                used,
                Recipe(**plain(config.train)),
                seed=seed_of(config.seed, "train"),
                folder=stage.folder,
                loop=run.loop,
                accelerator=run.accelerator,
                name="classifier",
            )
            share = accuracy(model, images, kept, run.device)
            log.info("classifier: %.1f %% of %d held-out images right", 100 * share, len(kept))
            if run.accelerator.is_main_process:
                with store.atomic(stage.folder / "model.safetensors") as scratch:
                    save_model(model, str(scratch))
                shutil.rmtree(stage.folder / "state", ignore_errors=True)
            run.finish(stage, began, accuracy=share, held_out=len(kept))
    load_model(model, stage.folder / "model.safetensors")
    manifest = stage.manifest
    assert manifest is not None
    return model.to(run.device).eval(), {"key": stage.key, "accuracy": manifest["accuracy"]}


def feature_extractor(run: Experiment) -> Features | None:
    """Return what the Fréchet distance is taken over, or None if it is not asked for."""
    if run.features is None and run.needs_classifier:
        classifier, facts = train_classifier(run)
        run.features = make(run.config.metric.fid, classifier=classifier, facts=facts)
    return run.features


def reference(run: Experiment, features: Features) -> Stage:
    """Take the moments of the run's images, once per data and extractor, by the first process alone."""
    stage = run.stage("reference", data=run.images.fingerprint, features=features.protocol())
    with run.building(stage) as missing:
        if missing and run.accelerator.is_main_process:
            began = time.monotonic()
            frechet = Frechet(features.to(run.device), run.device)
            rows = torch.arange(len(run.images)).split(run.config.metric.batch_size)
            pixels = batches(run.images, rows, run.device, run.config.runtime.workers)
            with progress("reference", len(rows), unit="batches", every=run.config.runtime.progress) as meter:
                frechet.feed(metered(pixels, meter), real=True)
            with store.atomic(stage.folder / "sums.safetensors") as scratch:
                save_file(frechet.reference, scratch)
            run.finish(stage, began, images=len(run.images))
    return stage


def metered(batches: Iterable[Tensor], meter: Meter) -> Iterator[Tensor]:
    """Yield `batches`, counting them."""
    for batch in batches:
        yield batch
        meter.advance()


def measure(run: Experiment, samples: Stage) -> dict[str, Any]:
    """Return `metrics` and `protocol` of the samples, by the first process alone."""
    config = run.config
    features = feature_extractor(run)
    moments = reference(run, features) if features else None
    threshold = asr_threshold(config.metric.asr_threshold, run.images.shape[1])
    stage = run.stage(
        "measure",
        samples=samples.key,
        threshold=threshold,
        features=features.protocol() if features else None,
        data=run.images.fingerprint,
        target=run.pictures["target"],
    )
    folder = samples.folder / "shards"
    with run.building(stage) as missing:
        if missing and run.accelerator.is_main_process:
            began = time.monotonic()
            total = -(-config.sample.count // config.sample.batch_size)
            with progress("measure", total, unit="batches", every=config.runtime.progress) as meter:
                triggered = (shard.triggered.to(run.device) for shard in shards(folder))
                hits = compare(metered(triggered, meter), run.target, threshold)
            values = {f"suspect/{name}": value for name, value in hits.items()}
            stated: dict[str, Any] = {"asr": {"threshold": threshold, "on": "per-image MSE on [0,1]"}}
            if "psnr" not in hits:
                stated["psnr"] = "absent: the MSE is zero"
            if features and moments:
                frechet = Frechet(features.to(run.device), run.device)
                frechet.reference = load_file(moments.folder / "sums.safetensors")
                frechet.feed((shard.clean for shard in shards(folder)), real=False)
                distance = frechet.value()
                if math.isfinite(distance):
                    values[f"suspect/{features.metric}"] = distance
                stated[features.metric] = {
                    **({} if math.isfinite(distance) else {"absent": f"the distance came out as {distance}"}),
                    **features.protocol(),
                    "reference": f"{run.images.name} {run.images.split}, {run.images.fingerprint}",
                    "reference_count": len(run.images),
                    "sample_count": config.sample.count,
                    "dimensions": features.num_features,
                    "images": "uint8 tensors, no files",
                }
            else:
                stated["fid"] = "absent: metric/fid=none"
            stage.finish(time.monotonic() - began, metrics=values, protocol=stated)
    manifest = stage.manifest
    assert manifest is not None
    return {"metrics": manifest["metrics"], "protocol": manifest["protocol"]}
