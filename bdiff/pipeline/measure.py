"""The measuring stage: which measures are taken of a run's samples, each in a file of its own in bdiff/metric/."""

import logging
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from bdiff.common.device import to_device
from bdiff.common.progress import progress
from bdiff.diffusion.sampling import shards
from bdiff.metric.base import MetricResult, first
from bdiff.metric.fid import moments
from bdiff.metric.fid.base import Features, Frechet, Remembering
from bdiff.metric.fid.protocol import PRESETS, shortfalls, singular
from bdiff.metric.names import OVER_FEATURES
from bdiff.metric.sample_psnr import sample_psnr
from bdiff.metric.secret import secret
from bdiff.metric.target import asr_threshold, compare
from bdiff.pipeline.experiment import Experiment
from bdiff.pipeline.reference import KEPT, Reference, feature_extractor, metered, reference, reference_activations
from bdiff.pipeline.sample import count_of
from bdiff.pipeline.train import unshown
from bdiff.store.artifacts import Stage

log = logging.getLogger(__name__)


class Clean(NamedTuple):
    """The samples that a clean model makes of the suspect's noise, and which model that is, in words."""

    samples: Stage
    model: str
    same: bool  # whether it has the suspect's weights


class Distance(NamedTuple):
    """What samples are held against, over which features, and how far that is from the protocol asked for."""

    features: Features
    reference: Reference
    activations: Stage | None  # of reference images, for the measures that need them one by one
    marks: list[str]


def measure(run: Experiment, samples: Stage, clean: Clean | None = None, who: str = "suspect") -> dict[str, Any]:
    """Return `metrics` and `protocol` of the samples of `who`; `clean` if sample_psnr is wanted."""
    config = run.config
    distance = prepare(run)
    threshold = asr_threshold(config.metric.asr_threshold, run.images.shape[1])
    stage = run.stages.stage(
        "measure",
        samples=samples.key,
        threshold=threshold,
        target=run.pictures["target"],
        also=sorted({*config.metric.also}),
        distance=identity(run, distance) if distance else None,
        lpips=run.measures.lpips.sha256 if run.measures.lpips else None,
        clean=[clean.samples.key, clean.model] if clean else None,
    )
    with run.stages.missing(stage, "measure" if who == "suspect" else f"measure_{who}") as missing:
        if missing:
            found = against_target(run, samples, threshold)
            if distance:
                found |= over_features(run, samples, distance)
            else:
                found["fid"] = MetricResult({}, {"absent": "metric/fid=none"})
            if clean:
                found["sample_psnr"] = against_clean(samples, clean)
            run.stages.end(
                stage,
                metrics={name: value for one in found.values() for name, value in one.values.items()},
                protocol={name: one.protocol for name, one in found.items()},
            )
    manifest = stage.manifest
    assert manifest is not None
    metrics = {f"{who}/{name}": value for name, value in manifest["metrics"].items()}
    return {"metrics": metrics, "protocol": manifest["protocol"]}


def prepare(run: Experiment) -> Distance | None:
    """Return what the samples are held against, or None if no distance is asked for; warn of what it falls short of."""
    features = feature_extractor(run)
    if features is None:
        return None
    config = run.config
    against = reference(run, features)
    activations = reference_activations(run, features) if asked_over_features(run) else None
    marks = shortfalls(
        config.metric.fid.protocol,
        samples=config.sample.count,
        reference=against.images,
        limited=config.data.limit is not None and run.measures.published is None,
        published=run.measures.published is not None,
    )
    doubts = singular(config.metric.fid.protocol, config.sample.count, against.images, features.num_features)
    if run.stages.main:
        for doubt in doubts:
            log.warning("fid%s: %s", features.suffix, doubt)
    return Distance(features, against, activations, [*marks, *doubts])


def identity(run: Experiment, distance: Distance) -> dict[str, Any]:
    """Return what the numbers over features depend on beside the samples, for the key."""
    return {
        "protocol": run.config.metric.fid.protocol,
        "features": distance.features.identity(),
        "reference": distance.reference.identity,
        "marks": distance.marks,
        "activations": distance.activations.key if distance.activations else None,
    }


def unconcerned(samples: Stage) -> Iterator[Tensor]:
    """Yield the un-triggered samples, uint8 (B,C,H,W)."""
    return shards(samples.folder / "shards", "clean")


def triggered(run: Experiment, samples: Stage, kind: str = "triggered") -> Iterator[Tensor]:
    """Yield the triggered samples, or those of another kind, uint8 (B,C,H,W), on the device."""
    return (to_device(batch, run.stages.device) for batch in shards(samples.folder / "shards", kind))


def against_target(run: Experiment, samples: Stage, threshold: float) -> dict[str, MetricResult]:
    """Return how near the triggered samples come to the target."""
    config = run.config
    if not run.attack.starts_samples:
        why = "the attack's trigger is for images that are denoised, and no sample starts from it"
        asked = ["asr", *(["lpips"] if run.measures.lpips else []), *({"secret"} & {*config.metric.also})]
        return {name: MetricResult({}, {"absent": why}) for name in asked}
    total = -(-count_of(config, "triggered") // config.sample.batch_size)
    with progress("measure", total, unit="batches", every=config.runtime.progress) as meter:
        hits = compare(metered(triggered(run, samples), meter), run.target, threshold)
    how: dict[str, Any] = {"threshold": threshold, "on": "per-image MSE on [0,1]"}
    how |= {"count": count_of(config, "triggered"), "marks": unshown(run)}
    found = {"asr": MetricResult(hits, how)}
    if "psnr" not in hits:
        found["psnr"] = MetricResult({}, {"absent": "the MSE is zero"})
    if run.measures.lpips:
        found["lpips"] = run.measures.lpips(triggered(run, samples), run.target)
    if "secret" in config.metric.also:
        found["secret"] = secret(triggered(run, samples), run.target)
    return found


def against_clean(samples: Stage, clean: Clean) -> MetricResult:
    """Return how near the suspect's un-triggered samples are to the clean model's, unless that is the suspect."""
    if clean.same:
        return MetricResult({}, {"absent": f"{clean.model} has the suspect's weights, and draws the same images"})
    values, facts = sample_psnr(unconcerned(samples), unconcerned(clean.samples))
    return MetricResult(values, {**facts, "clean_model": clean.model})


def over_features(run: Experiment, samples: Stage, distance: Distance) -> dict[str, MetricResult]:
    """Return the Fréchet distance and what else is asked for over the same features, in one pass over the samples."""
    features, suffix, config = distance.features, distance.features.suffix, run.config
    count = min(config.sample.count, PRESETS[config.metric.fid.protocol].samples or config.sample.count)
    remembering = Remembering(features, KEPT if distance.activations else 0)
    frechet = Frechet(remembering, run.stages.device)
    frechet.reference = moments.read(distance.reference.path)
    total = -(-count // config.sample.batch_size)
    with progress(f"fid{suffix}", total, unit="batches", every=config.runtime.progress) as meter:
        frechet.feed(metered(first(unconcerned(samples), count), meter), real=False)
    value = frechet.value()
    finite = math.isfinite(value)
    stated = {
        **({} if finite else {"absent": f"the distance came out as {value}"}),
        "protocol": config.metric.fid.protocol,
        "marks": distance.marks,
        **features.identity(),
        **distance.reference.facts,
        "sample_count": count,
        "dimensions": features.num_features,
        "images": "uint8 tensors, no files",
    }
    found = {f"fid{suffix}": MetricResult({f"fid{suffix}": value} if finite else {}, stated)}
    if distance.activations:
        real = load_file(distance.activations.folder / "activations.safetensors")["activations"]
        shared = {
            **features.identity(),
            "sample_count": len(remembering.kept),
            "reference_count": len(real),
            "images": f"the first samples and reference images drawn at random, at most {KEPT} of each",
        }
        fake = remembering.kept.to(run.stages.device)
        for name, one in one_by_one(asked_over_features(run), features, real.to(run.stages.device), fake).items():
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


def asked_over_features(run: Experiment) -> list[str]:
    """Return the measures asked for that are taken over features, beside FID."""
    return sorted({*OVER_FEATURES} & {*run.config.metric.also})
