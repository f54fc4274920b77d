"""What samples are held against: features, which may be a classifier's, and the reference images' statistics."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor

from bdiff.common.progress import Meter
from bdiff.common.seeds import generator
from bdiff.config.instantiate import made_of
from bdiff.data.base import Images, batches
from bdiff.diffusion.engine import Engine
from bdiff.diffusion.mode import Work
from bdiff.metric.fid import moments
from bdiff.metric.fid.base import Features, Frechet
from bdiff.metric.fid.protocol import PRESETS
from bdiff.metric.weights import file_hash
from bdiff.pipeline.classifier import train_classifier
from bdiff.pipeline.prepare import Measures
from bdiff.pipeline.stages import Stages, keep
from bdiff.store import artifacts
from bdiff.store.artifacts import Stage

log = logging.getLogger(__name__)

#: activations kept of each side, for measures that need them one by one; FID keeps none
KEPT = 10_000


def feature_extractor(
    stages: Stages, images: Images, measures: Measures, fid: DictConfig, classifier: DictConfig
) -> Features | None:
    """Return what the Fréchet distance of conf/metric/fid is taken over, or None if it is not asked for.

    Where that is the classifier of `classifier`, it is trained on the images.
    """
    features = measures.features
    if measures.needs_classifier:
        trained, facts = train_classifier(stages, images, classifier)
        features = made_of(fid, classifier=trained, facts=facts)
    return features.to(stages.device).eval() if features else None


class FeatureCalls(NamedTuple):
    """Features as a stage asks them, of images of a shape (C,H,W) on a device."""

    engine: Engine
    shape: tuple[int, ...]
    device: torch.device

    def example(self, count: int) -> tuple[Tensor, ...]:
        """Return `count` images."""
        drawn = torch.randint(256, (count, *self.shape), dtype=torch.uint8, generator=generator("features"))
        return (drawn.to(self.device),)


def settle_features(stages: Stages, stage: Stage, features: Features, shape: tuple[int, ...], work: Work) -> None:
    """Put features into the mode of a stage that all processes build; the mode of a stage before is left."""
    features.engine.fall_back()
    stages.settle(stage, FeatureCalls(features.engine, shape, stages.device), work, "features", together=True)


class Reference(NamedTuple):
    """Statistics that samples are held against."""

    path: Path  # of the .npz
    identity: str  # what keys say of it
    images: int | None  # how many; None where a file does not say
    facts: dict[str, Any]  # for the protocol


def published_reference(path: Path) -> Reference:
    """Return the statistics in a file that the user gives."""
    sha256, count = file_hash(path), moments.read(path).count
    facts = {"reference": path.name, "reference_sha256": sha256, "reference_count": count or "not in the file"}
    return Reference(path, sha256, count, facts)


def reference(stages: Stages, features: Features, images: Images, metric: DictConfig) -> Reference:
    """Return the statistics of the reference images, taken once per data and extractor."""
    stage = stages.stage("reference", data=images.fingerprint, features=features.identity())
    path = stage.folder / "reference.npz"

    def build() -> dict[str, Any]:
        settle_features(stages, stage, features, images.shape, Work(len(images), metric.batch_size))
        frechet = Frechet(features, stages.device)
        pixels = streamed(stages, images, torch.arange(len(images)), "reference", metric.batch_size)
        frechet.feed(pixels, real=True, peers=stages.peers)
        if stages.main:
            with artifacts.atomic(path) as scratch:
                moments.write(scratch, frechet.reference)
        log.info("reference: mu and sigma of %d images in %s", len(images), path)
        return {"images": len(images)}

    stages.once(stage, build, together=True)
    whole = PRESETS[metric.fid.protocol].split not in (None, images.split)
    words = f"{images.name} {images.split}{' (all of it: the data has no splits)' if whole else ''}"
    facts = {"reference": f"{words}, {images.fingerprint}", "reference_count": len(images)}
    return Reference(path, stage.key, len(images), facts)


def reference_activations(stages: Stages, features: Features, images: Images, batch_size: int) -> Stage:
    """Keep the activations of at most `KEPT` reference images, drawn at random, the same each time."""
    stage = stages.stage("activations", data=images.fingerprint, features=features.identity(), most=KEPT)

    def build() -> dict[str, Any]:
        rows = torch.randperm(len(images), generator=generator("activations"))[:KEPT].sort().values
        with torch.inference_mode():
            own = (features(pixels).cpu() for pixels in streamed(stages, images, rows, "activations", batch_size))
            activations = torch.cat([*stages.peers.stream(own)])
        if stages.main:
            keep(stage.folder / "activations.safetensors", {"activations": activations})
        return {"images": len(rows)}

    stages.once(stage, build, together=True)
    return stage


def streamed(stages: Stages, images: Images, rows: Tensor, name: str, batch_size: int) -> Iterator[Tensor]:
    """Yield the images at `rows` (n,) as uint8 (B,C,H,W) on the device, with a progress bar called `name`.

    Only those batches of them that are this process's own.
    """
    parts = stages.peers.mine(rows.split(batch_size))
    with stages.meter(name, len(parts), "batches") as meter:
        yield from metered(batches(images, parts, stages.device, stages.loop.workers), meter)


def metered(batches: Iterable[Tensor], meter: Meter) -> Iterator[Tensor]:
    """Yield `batches`, counting them."""
    for batch in batches:
        yield batch
        meter.advance()
