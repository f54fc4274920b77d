"""The measuring stage: which measures are taken of a run's samples, each in a file of its own in bdiff/metric/."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from bdiff.common.device import to_device
from bdiff.data.base import Images
from bdiff.diffusion.mode import Work
from bdiff.diffusion.sampling import shards
from bdiff.metric.base import MetricResult
from bdiff.metric.fid import moments
from bdiff.metric.fid.base import Features, Frechet
from bdiff.metric.fid.protocol import PRESETS, shortfalls, singular
from bdiff.metric.names import OVER_FEATURES
from bdiff.metric.sample_psnr import sample_psnr
from bdiff.metric.secret import secret
from bdiff.metric.target import asr_threshold, compare, near
from bdiff.pipeline.class_target import ClassTarget
from bdiff.pipeline.leak import Clean, leaks
from bdiff.pipeline.prepare import Data
from bdiff.pipeline.reference import (
    KEPT,
    Reference,
    metered,
    published_reference,
    reference,
    reference_activations,
    settle_features,
)
from bdiff.pipeline.sample import count_of
from bdiff.pipeline.stages import Stages
from bdiff.store.artifacts import Stage

if TYPE_CHECKING:
    from bdiff.metric.lpips import Lpips

log = logging.getLogger(__name__)

UNTRIGGERED = "the attack's trigger is for images that are denoised, and no sample starts from it"


class Distance(NamedTuple):
    """What samples are held against, over which features, and how far that is from the protocol asked for."""

    features: Features
    reference: Reference
    activations: Stage | None  # of reference images, for the measures that need them one by one
    marks: list[str]


@dataclass(frozen=True)
class Measuring:
    """How the samples of any model of a run are measured, and what they are held against."""

    metric: DictConfig  # conf/metric
    sample: DictConfig  # conf/sample: how many there are
    target: Tensor  # (C,H,W) in [-1,1]
    target_key: str
    triggered: bool  # whether the attack has samples that start from its trigger
    marks: list[str]  # what casts doubt on the suspect's training
    distance: Distance | None
    lpips: "Lpips | None"
    goal: ClassTarget | None = None  # what triggered samples should be of instead of the target

    @property
    def threshold(self) -> float:
        """Return the MSE on [0,1] below which a sample is the target."""
        return asr_threshold(self.metric.asr_threshold, self.target.shape[1])

    @property
    def hits(self) -> Callable[[Tensor], Tensor]:
        """What tells which uint8 images (B,C,H,W) show the target, or are of its class, (B,) bool."""
        return self.goal.hits if self.goal else near(self.target, self.threshold)

    @property
    def stated(self) -> dict[str, Any]:
        """What the protocol says of such hits."""
        return self.goal.stated if self.goal else {"threshold": self.threshold, "on": "per-image MSE on [0,1]"}


def measure(
    stages: Stages,
    samples: Stage,
    how: Measuring,
    clean: Clean | None = None,
    images: Images | None = None,
    who: str = "suspect",
) -> dict[str, Any]:
    """Return `metrics` and `protocol` of the samples of `who`.

    What the false_trigger is held against is measured with it: that of `clean`, which is given if sample_psnr is asked
    for, and that of the `images` of training.
    """
    stage = stages.stage(
        "measure",
        samples=samples.key,
        threshold=how.threshold,
        target=how.target_key,
        also=sorted({*how.metric.also}),
        distance=identity(how.distance, how.metric.fid.protocol) if how.distance else None,
        lpips=how.lpips.sha256 if how.lpips else None,
        clean=[clean.samples.key, clean.model] if clean else None,
        data=None if images is None else images.fingerprint,
        **({"class": how.goal.identity, "excess": True} if how.goal else {}),
    )

    def build() -> dict[str, Any]:
        fed = fed_features(stages, stage, samples, how, how.distance) if how.distance else None
        if not stages.main:
            return {}
        found = against_target(stages, samples, how)
        if how.distance and fed:
            found |= over_features(fed, how, how.distance)
        else:
            found["fid"] = MetricResult({}, {"absent": "metric/fid=none"})
        if clean:
            found["sample_psnr"] = against_clean(samples, clean)
        beside: dict[str, float] = {}
        found["false_trigger"] = MetricResult({}, {"absent": UNTRIGGERED})
        if how.triggered:
            found["false_trigger"], beside = leaks(stages, samples, clean, images, how.hits, how.stated, bool(how.goal))
        return {
            "metrics": {name: value for one in found.values() for name, value in one.values.items()},
            "beside": beside,
            "protocol": {name: one.protocol for name, one in found.items()},
        }

    manifest = stages.once(stage, build, "measure" if who == "suspect" else f"measure_{who}", together=True)
    metrics = {f"{who}/{name}": value for name, value in manifest["metrics"].items()}
    return {"metrics": metrics | manifest["beside"], "protocol": {**manifest["protocol"]}}


def distance_to_reference(
    stages: Stages, features: Features, data: Data, published: str | None, metric: DictConfig, count: int
) -> Distance:
    """Return what `count` samples are held against: the data's reference images, or a file of published statistics.

    Warns of what that falls short of.
    """
    if published is not None:
        against = published_reference(Path(published).expanduser())
    else:
        assert data.reference is not None
        against = reference(stages, features, data.reference, metric)
    activations = None
    if asked_over_features(metric):
        assert data.reference is not None
        activations = reference_activations(stages, features, data.reference, metric.batch_size)
    marks = shortfalls(
        metric.fid.protocol,
        samples=count,
        reference=against.images,
        limited=data.limit is not None and published is None,
        published=published is not None,
    )
    doubts = singular(metric.fid.protocol, count, against.images, features.num_features)
    if stages.main:
        for doubt in doubts:
            log.warning("fid%s: %s", features.suffix, doubt)
    return Distance(features, against, activations, [*marks, *doubts])


def identity(distance: Distance, protocol: str) -> dict[str, Any]:
    """Return what the numbers over features depend on beside the samples, for the key."""
    return {
        "protocol": protocol,
        "features": distance.features.identity(),
        "reference": distance.reference.identity,
        "marks": distance.marks,
        "activations": distance.activations.key if distance.activations else None,
    }


def untriggered(samples: Stage) -> Iterator[Tensor]:
    """Yield the un-triggered samples, uint8 (B,C,H,W)."""
    return shards(samples.folder / "shards", "clean")


def triggered(samples: Stage, device: torch.device, kind: str = "triggered") -> Iterator[Tensor]:
    """Yield the triggered samples, or those of another kind, uint8 (B,C,H,W), on the device."""
    return (to_device(batch, device) for batch in shards(samples.folder / "shards", kind))


def against_target(stages: Stages, samples: Stage, how: Measuring) -> dict[str, MetricResult]:
    """Return how near the triggered samples come to the target."""
    asked = ["asr", *(["lpips"] if how.lpips else []), *({"secret"} & {*how.metric.also})]
    if not how.triggered:
        return {name: MetricResult({}, {"absent": UNTRIGGERED}) for name in asked}
    count, device = count_of(how.sample, "triggered"), stages.device
    if how.goal:
        found = dict.fromkeys(asked, MetricResult({}, {"absent": f"the target is a class, {how.goal.name}"}))
        return found | {"class_asr": how.goal.measured(triggered(samples, device), how.metric.batch_size, how.marks)}
    with stages.meter("measure", -(-count // how.sample.batch_size), "batches") as meter:
        hits = compare(metered(triggered(samples, device), meter), how.target, how.threshold)
    found = {"asr": MetricResult(hits, how.stated | {"count": count, "marks": how.marks})}
    if "psnr" not in hits:
        found["psnr"] = MetricResult({}, {"absent": "the MSE is zero"})
    if how.lpips:
        found["lpips"] = how.lpips(triggered(samples, device), how.target)
    if "secret" in how.metric.also:
        found["secret"] = secret(triggered(samples, device), how.target)
    return found


def target_hits(samples: Stage, kind: str, how: Measuring, device: torch.device) -> dict[str, float]:
    """Return how many samples of a kind hit the target, and how near they come to it, by name of the measure."""
    if how.goal:
        return how.goal.success(triggered(samples, device, kind))
    hits = compare(triggered(samples, device, kind), how.target, how.threshold)
    return {name: hits[name] for name in ("asr", "asr_se", "mse")}


def against_clean(samples: Stage, clean: Clean) -> MetricResult:
    """Return how near the suspect's un-triggered samples are to the clean model's, unless that is the suspect."""
    if clean.same:
        return MetricResult({}, {"absent": f"{clean.model} has the suspect's weights, and draws the same images"})
    values, facts = sample_psnr(untriggered(samples), untriggered(clean.samples))
    return MetricResult(values, {**facts, "clean_model": clean.model})


def fed_features(stages: Stages, stage: Stage, samples: Stage, how: Measuring, distance: Distance) -> Frechet:
    """Return the Fréchet distance with the reference's moments and the samples, which all processes share.

    `stage` is the one that is built by it.
    """
    work = Work(counted(how), how.sample.batch_size)
    settle_features(stages, stage, distance.features, tuple(how.target.shape), work)
    frechet = Frechet(distance.features, stages.device, KEPT if distance.activations else 0)
    frechet.reference = moments.read(distance.reference.path)
    starts, name = range(0, counted(how), how.sample.batch_size), f"fid{distance.features.suffix}"
    with stages.meter(name, len(stages.peers.mine(starts)), "batches") as meter:
        pixels = shards(samples.folder / "shards", "clean", counted(how), stages.peers)
        frechet.feed(metered(pixels, meter), real=False, peers=stages.peers)
    return frechet


def counted(how: Measuring) -> int:
    """Return of how many samples the distance is."""
    return int(min(how.sample.count, PRESETS[how.metric.fid.protocol].samples or how.sample.count))


def over_features(frechet: Frechet, how: Measuring, distance: Distance) -> dict[str, MetricResult]:
    """Return the Fréchet distance and what else is asked for over the same features of the samples."""
    features, suffix = distance.features, distance.features.suffix
    value = frechet.value()
    finite = math.isfinite(value)
    stated = {
        **({} if finite else {"absent": f"the distance came out as {value}"}),
        "protocol": how.metric.fid.protocol,
        "marks": distance.marks,
        **features.identity(),
        **distance.reference.facts,
        "sample_count": counted(how),
        "dimensions": features.num_features,
        "images": "uint8 tensors, no files",
    }
    found = {f"fid{suffix}": MetricResult({f"fid{suffix}": value} if finite else {}, stated)}
    if distance.activations:
        real = load_file(distance.activations.folder / "activations.safetensors")["activations"]
        fake = frechet.activations
        shared = {
            **features.identity(),
            "sample_count": len(fake),
            "reference_count": len(real),
            "images": f"the first samples and reference images drawn at random, at most {KEPT} of each",
        }
        on_device = (real.to(frechet.device), fake.to(frechet.device))
        for name, one in one_by_one(asked_over_features(how.metric), features, *on_device).items():
            values = {what + suffix: number for what, number in one.values.items()}
            found[name + suffix] = MetricResult(values, one.protocol | shared)
    return found


def one_by_one(names: list[str], features: Features, real: Tensor, fake: Tensor) -> dict[str, MetricResult]:
    """Return the measures `names` of the activations of real images (N,D) and samples (M,D)."""
    from bdiff.metric.inception_score import inception_score  # here, since torch-fidelity takes long to import
    from bdiff.metric.kid import kid
    from bdiff.metric.precision_recall import precision_recall

    measures = {
        "inception_score": lambda: inception_score(features.logits(fake)),
        "kid": lambda: kid(real, fake),
        "precision_recall": lambda: precision_recall(real, fake),
    }
    with torch.inference_mode():
        return {name: measures[name]() for name in names}


def asked_over_features(metric: DictConfig) -> list[str]:
    """Return the measures asked for that are taken over features, beside FID."""
    return sorted({*OVER_FEATURES} & {*metric.also})
