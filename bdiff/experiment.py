"""One experiment, from a composed config to metrics.json: the stages in order. Read this file first.

data -> train -> sample -> measure, each kept under a key of all that it depends on, so that the same request again
reuses what is there, and a killed one goes on.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, load_model, save_file, save_model

from bdiff import store
from bdiff.attack.base import Attack
from bdiff.classifier.base import Classifier, accuracy
from bdiff.data.base import Images
from bdiff.device import open_device, resolve_precision
from bdiff.errors import RequestError
from bdiff.make import make
from bdiff.metric.fid.base import Features, Frechet
from bdiff.metric.target import asr_threshold, compare
from bdiff.model import checkpoint
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
        for part in (config.train, config.sample):  # settled before any key is made of it
            part.precision = resolve_precision(part.precision, self.device)

        self.schedule: Schedule = make(config.schedule)
        self.scheduler = make(config.sampler.scheduler, **self.schedule.config)
        runtime = plain(config.runtime)
        self.loop = Loop(**{name: runtime[name] for name in Loop.__dataclass_fields__})
        self.features: Features | None = None
        if config.metric.fid._target_ and "classifier" not in config.metric.fid._target_:
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
        if self.features is None and config.metric.fid._target_ and len(self.images.classes) < 2:
            raise RequestError(
                f"data {self.images.name} has one class, so it trains no classifier: use metric/fid=inception or none"
            )
        channels, size = self.images.shape[:2]
        picture = make(config.trigger, size=size)
        self.trigger = Trigger.from_picture(picture, channels)
        self.target = to_target(make(config.target, size=size, trigger=picture), channels)
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
            if manifest is not None:
                log.info("%s: reused %s", stage.name, stage.folder)
                self.reused.append(stage.name)
            yield manifest is None
            self.accelerator.wait_for_everyone()
        finished = stage.manifest
        assert finished is not None, f"{stage.name} left no manifest"
        self.keys[stage.name], self.seconds[stage.name] = stage.key, finished["seconds"]

    def finish(self, stage: Stage, began: float, **facts: Any) -> None:
        """Write the stage's manifest, by the first process."""
        if self.accelerator.is_main_process:
            stage.finish(time.monotonic() - began, **facts)


def train(run: Experiment) -> Stage:
    """Train the suspect model; the stage's `model` folder is a stock diffusers checkpoint."""
    config = run.config
    stage = run.stage(
        "train",
        model=plain(config.model),
        start=checkpoint.weights_digest(config.model.pretrained),
        schedule=plain(config.schedule),
        attack=plain(config.attack),
        data=run.images.fingerprint,
        flip=run.images.flip,
        train=plain(config.train),
        seed=config.seed,
        **{name: plain(config[name]) for name in run.attack.reads},
    )
    with run.building(stage) as missing:
        if missing:
            began = time.monotonic()
            torch.manual_seed(seed_of(config.seed, "weights"))
            unet = checkpoint.build(config.model, run.schedule)
            index, poisoned = run.attack.plan(len(run.images), seed_of(config.seed, "poison"))
            log.info(
                "train: %d images, %d of %d rows poisoned, %.2f M weights, %d steps in %s on %s",
                len(run.images),
                int(poisoned.sum()),
                len(index),
                sum(weight.numel() for weight in unet.parameters()) / 1e6,
                Recipe(**plain(config.train)).total(len(index)),
                config.train.precision,
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
                run.images.to(run.device),
                index,
                Recipe(**plain(config.train)),
                seed=seed_of(config.seed, "train"),
                folder=stage.folder,
                loop=run.loop,
                accelerator=run.accelerator,
                record=lambda row: run.tracker.log(
                    {f"train/{name}": value for name, value in row.items()}, row["step"]
                ),
            )
            if run.accelerator.is_main_process:
                checkpoint.save(stage.folder / "model", unet, run.schedule, stage.parts)
                discard(stage.folder / "state")
            run.finish(stage, began, images=len(run.images), poisoned=int(poisoned.sum()))
    return stage


def discard(folder: Path) -> None:
    """Remove a folder of files."""
    for path in folder.glob("*"):
        path.unlink()
    if folder.exists():
        folder.rmdir()


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
        trigger=plain(config.trigger),
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
            images = run.images.to(run.device)
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
                discard(stage.folder / "state")
            run.finish(stage, began, accuracy=share, held_out=len(kept))
    load_model(model, stage.folder / "model.safetensors", device=str(run.device))
    manifest = stage.manifest
    assert manifest is not None
    return model.to(run.device).eval(), {"key": stage.key, "accuracy": manifest["accuracy"]}


def feature_extractor(run: Experiment) -> Features | None:
    """Return what the Fréchet distance is taken over, or None if it is not asked for."""
    if run.features is None and run.config.metric.fid._target_:
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
            frechet.feed((run.images.take(part) for part in rows), real=True)
            with store.atomic(stage.folder / "sums.safetensors") as scratch:
                save_file(frechet.reference, scratch)
            run.finish(stage, began, images=len(run.images))
    return stage


def measure(run: Experiment, samples: Stage) -> dict[str, Any]:
    """Return `metrics` and `protocol` of the samples, by the first process alone."""
    config = run.config
    features = feature_extractor(run)
    moments = reference(run, features) if features else None
    stage = run.stage(
        "measure",
        samples=samples.key,
        metric=plain(config.metric),
        features=features.protocol() if features else None,
        data=run.images.fingerprint,
        target=plain(config.target),
    )
    folder = samples.folder / "shards"
    with run.building(stage) as missing:
        if missing and run.accelerator.is_main_process:
            began = time.monotonic()
            threshold = asr_threshold(config.metric.asr_threshold, run.images.shape[1])
            hits = compare((shard.triggered for shard in shards(folder)), run.target, threshold)
            values = {f"suspect/{name}": value for name, value in hits.items()}
            stated: dict[str, Any] = {"asr": {"threshold": threshold, "on": "per-image MSE on [0,1]"}}
            if "psnr" not in hits:
                stated["psnr"] = "absent: the MSE is zero"
            if features and moments:
                frechet = Frechet(features.to(run.device), run.device)
                frechet.reference = load_file(moments.folder / "sums.safetensors")
                frechet.feed((shard.clean for shard in shards(folder)), real=False)
                values[f"suspect/{features.metric}"] = frechet.value()
                stated[features.metric] = {
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
    from bdiff.data.base import to_float, to_uint8
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
