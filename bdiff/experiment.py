"""One experiment, from a composed config to metrics.json: the stages in order. Read this file first.

data -> train -> sample -> measure, each kept under a key of all that it depends on, so that the same request again
reuses what is there, and a killed one goes on.
"""

import logging
import math
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor

from bdiff import store
from bdiff.attack.base import Attack
from bdiff.classifier.base import Classifier, accuracy
from bdiff.data.base import Images, TensorImages, batches, to_float, to_uint8
from bdiff.device import open_device, resolve_precision
from bdiff.errors import RequestError
from bdiff.make import make
from bdiff.metric.fid.base import Features, Frechet
from bdiff.metric.target import asr_threshold, compare
from bdiff.model import checkpoint
from bdiff.progress import Meter, progress
from bdiff.sample import sample, shards
from bdiff.schedule import Schedule
from bdiff.seeds import seed_of
from bdiff.store import Stage
from bdiff.target.base import to_target
from bdiff.tracker.none import NoTracker
from bdiff.train import Loop, Recipe, classification_loss, denoising_loss, fit, read_history
from bdiff.trigger.base import Trigger

log = logging.getLogger(__name__)

#: raised when the code of a stage changes what it makes
VERSION = {"classifier": 1, "train": 1, "sample": 1, "reference": 1, "measure": 1}


#: the features that have to be trained before they can be used
CLASSIFIER_FID = "bdiff.metric.fid.classifier.ClassifierFeatures"


def plain(config: DictConfig) -> Any:
    """Return a config node as plain resolved containers."""
    return OmegaConf.to_container(config, resolve=True)


class Experiment:
    """A request with everything small built from it: what the stages share.

    Raises RequestError before anything is trained if a part cannot be had.
    """

    def __init__(self, config: DictConfig, tracker: NoTracker):
        self.config, self.tracker = config, tracker
        self.accelerator = open_device(config.runtime.device)
        self.device = self.accelerator.device
        self.root = Path(config.paths.outputs)
        self.seconds: dict[str, float] = {}
        self.keys: dict[str, str] = {}
        self.reused: list[str] = []
        for part in (config.train, config.sample, config.classifier.train):  # settled before any key is made of it
            part.precision = resolve_precision(part.precision, self.device)

        self.schedule: Schedule = make(config.schedule)
        self.scheduler = make(config.sampler.scheduler, **self.schedule.config)
        runtime = plain(config.runtime)
        self.loop = Loop(**{name: runtime[name] for name in Loop.__dataclass_fields__})
        self.features: Features | None = None
        self.needs_classifier = config.metric.fid._target_ == CLASSIFIER_FID
        if config.metric.fid._target_ and not self.needs_classifier:
            self.features = make(config.metric.fid)
        if config.model.pretrained is not None:
            checkpoint.fetch(config.model.pretrained)
        began = time.monotonic()
        self.images: Images = make(
            config.data,
            cache=Path(config.paths.cache).expanduser(),
            seed=config.seed,
            memory=config.runtime.memory,
        )
        self.seconds["data"] = round(time.monotonic() - began, 3)
        if self.needs_classifier and len(self.images.classes) < 2:
            raise RequestError(
                f"data {self.images.name} has one class, so it trains no classifier: use metric/fid=inception or none"
            )
        channels, size = self.images.shape[:2]
        picture = make(config.trigger, size=size)
        self.trigger = Trigger.from_picture(picture, channels)
        self.target = to_target(make(config.target, size=size, trigger=picture), channels)
        # Keys are made of the pictures themselves, not of where they were read from.
        self.pictures = {
            "trigger": store.content(self.trigger.pattern, self.trigger.mask),
            "target": store.content(self.target),
        }
        self.attack: Attack = make(config.attack, trigger=self.trigger, target=self.target)
        if self.attack.ancestral_only and config.sampler.ode:
            log.warning(
                "%s is known to fail with ODE samplers: expect an ASR near 0 (sampler=ddpm is what it is made for)",
                type(self.attack).__name__,
            )

    def stage(self, name: str, **parts: Any) -> Stage:
        """Return the stage `name` made from `parts`."""
        return store.stage(self.root, name, VERSION[name], **parts)

    @contextmanager
    def building(self, stage: Stage) -> Iterator[bool]:
        """Hold the stage's lock on behalf of all processes; yields whether it still has to be built."""
        main = self.accelerator.is_main_process
        with store.lock(stage.folder.with_suffix(".lock")) if main else nullcontext():
            self.accelerator.wait_for_everyone()
            manifest = stage.manifest
            if manifest is None and main:
                store.sweep(stage.folder)
            if manifest is not None:
                log.info("%s: reused %s", stage.name, stage.folder)
                self.reused.append(stage.name)
            yield manifest is None
            self.accelerator.wait_for_everyone()
        finished = stage.manifest
        assert finished is not None, f"{stage.name} left no manifest"
        self.keys[stage.name], self.seconds[stage.name] = stage.key, finished["seconds"]

    def record(self, row: dict[str, Any]) -> None:
        """Pass a row of the training's history on to the tracker."""
        self.tracker.log({f"train/{name}": value for name, value in row.items()}, row["step"])

    def finish(self, stage: Stage, began: float, **facts: Any) -> None:
        """Write the stage's manifest, by the first process."""
        if self.accelerator.is_main_process:
            stage.finish(time.monotonic() - began, **facts)


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


def resident(images: Images, device: torch.device) -> Images:
    """Return `images` with their pixels on `device`, unless they would take over a quarter of its free memory."""
    if device.type == "cuda" and isinstance(images, TensorImages):
        free, _ = torch.cuda.mem_get_info(device)
        if images.pixels.nbytes > free / 4:
            return images
    return images.to(device)


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
    load_model(model, stage.folder / "model.safetensors", device=str(run.device))
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
