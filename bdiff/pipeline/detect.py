"""The evaluation of a detection: its verdict, and how near its inverted trigger comes to the true one.

Its stages and metrics are called "audit", as the command is.
"""

import logging
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from bdiff.attack.base import Attack
from bdiff.common.seeds import generator, seed_of
from bdiff.config.keys import plain
from bdiff.data.base import to_float
from bdiff.defense.base import Detection, Inversion
from bdiff.defense.detection.terd import is_backdoored
from bdiff.diffusion.engine import steady
from bdiff.diffusion.steps import class_of
from bdiff.pipeline import prepare
from bdiff.pipeline.family import family_asked, family_of, of_family
from bdiff.pipeline.measure import Measuring, target_hits
from bdiff.pipeline.remove import Found
from bdiff.pipeline.result import SHEET, StageResult, first_images
from bdiff.pipeline.sample import Sampling, clean, draw_samples, shifted
from bdiff.pipeline.stages import STATE, Stages, keep
from bdiff.pipeline.suspect import Diffusion, own, suspect_of, work_of
from bdiff.pipeline.threshold import Threshold
from bdiff.store.artifacts import Stage
from bdiff.trigger.base import Trigger

log = logging.getLogger(__name__)

CHECKED = 1024  # starting noises of either kind that TERD's input check gets


class Truth(NamedTuple):
    """What the measuring side knows of the backdoor, and no detection does."""

    attack: Attack
    trigger: Trigger
    measuring: Measuring

    @property
    def of_samples(self) -> bool:
        """Whether there is a trigger that samples start from, to hold an inverted one and its samples against."""
        return self.attack.poison_rate > 0 and self.attack.starts_samples


class Drawings(NamedTuple):
    """How the run draws, and the samples that it has drawn of the model, clean ones among them; None in an audit."""

    sampling: Sampling
    samples: Stage | None = None


def detected(
    stages: Stages,
    model: Stage,
    detection: Detection,
    config: DictConfig,  # conf/defense
    drawings: Drawings,
    truth: Truth | None,  # None where nobody knows it
    threshold: Threshold,
) -> tuple[StageResult, Found]:
    """Invert a trigger, draw samples from it, give the verdict, and compare with the true trigger if there is one.

    The samples are the run's sampler's, or those of a sampler of the family that the inverted trigger belongs to; as
    many as the run's triggered ones if they are held against these, or else no more than the verdict reads. Clean ones
    for comparison are the run's own, or a few more by that sampler. Returns the inverted trigger too. Without a truth,
    clean ones are drawn for every detection, and returned among the samples as well.
    """
    diffusion, seed = drawings.sampling.diffusion, drawings.sampling.seed
    stage, manifest = invert(stages, model, detection, config, diffusion, seed)
    found = inversion(stages, stage, manifest, diffusion.shape)
    sampling = sampling_of(drawings.sampling, found.family or (family_asked(config) if stages.planning else None))
    trigger, ode = found.trigger, family_of(sampling.sampler) == "ode"
    drawing = sampling if truth and truth.of_samples else fewer(sampling, max(detection.reads, SHEET))
    samples = draw_samples(stages, drawing, model, {"inverted": shifted(trigger, found.gamma, ode)}, "audit_sample")
    beside = detection.reads if truth else max(detection.reads, SHEET)
    benign = clean_samples(stages, model, drawings, sampling, beside) if detection.compares or not truth else None
    if stages.planning:
        return StageResult(), Found(found, stage.key)
    first = first_images(samples, "inverted", detection.reads)
    without = to_float(first_images(benign, "clean", detection.reads)) if benign and detection.compares else None
    flag_by = config.get("flag_by", "score")
    verdict = detection.verdict(found, to_float(first), without, flag_by)
    metrics = {
        "score": verdict.score,
        **verdict.evidence,
        "seconds": manifest["seconds"],
        "evaluations": manifest["evaluations"],
    }
    if detection.threshold is not None:
        metrics["flagged"] = float(verdict.flagged)
    known, about = compared(truth, samples, found, stages.device, seed) if truth else ({}, {})
    metrics |= known
    flag = "flagged" if verdict.flagged else "not flagged"
    said = threshold.unflagged or (f"{flag}; {threshold.basis}" if threshold.basis else flag)
    log.info("audit: %s %.4g, %s", flag_by, metrics[flag_by], said)
    protocol = {
        **about,
        "threshold": detection.threshold,
        **({"threshold of": flag_by} if flag_by != "score" else {}),
        **({"threshold from": threshold.basis} if threshold.basis else {}),
        **({"not flagged": threshold.unflagged} if threshold.unflagged else {}),
        **({"sampler": another(sampling)} if sampling is not drawings.sampling else {}),
        "precision": config.precision,
    }
    result = StageResult(
        {f"audit/{name}": value for name, value in metrics.items()},
        {"audit": protocol},
        {"inverted trigger": trigger},
        {"inverted": first} | ({} if truth or benign is None else {"clean": first_images(benign, "clean")}),
    )
    return result, Found(found, stage.key)


def compared(
    truth: Truth, samples: Stage, found: Inversion, device: torch.device, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return how near an inversion comes to the true trigger, and what the protocol says of that."""
    about = {"backdoored": truth.attack.poison_rate > 0, "marks": truth.measuring.marks}
    lacking = None if truth.of_samples else "no true trigger of samples"
    metrics: dict[str, float] = {}
    if lacking is None:
        metrics |= input_check(truth.attack, found, seed)
        metrics |= target_hits(samples, "inverted", truth.measuring, device)
        if truth.attack.adds_pattern:
            metrics |= fidelity(found.trigger, truth.trigger.pattern, truth.trigger.mask)
        else:
            lacking = "the true trigger scales noise, so it is no pattern"
    return metrics, about | ({"absent": f"{lacking} to hold the inverted one against"} if lacking else {})


def invert(
    stages: Stages, model: Stage, detection: Detection, config: DictConfig, diffusion: Diffusion, seed: int
) -> tuple[Stage, dict[str, Any]]:
    """Let the detection invert a trigger, kept as trigger.safetensors; return the stage and its manifest.

    The processes share its starts; one makes it alone if there is but one start.
    """
    stage = stages.stage(
        "audit",
        model=model.key,
        schedule=diffusion.key,
        defense=own(config, "threshold"),  # which changes nothing of the trigger
        precision=config.precision,
        seed=seed,
        **({"detection_version": detection.version} if detection.version > 1 else {}),
    )

    shared = detection.starts > 1
    detection.state = stage.folder / STATE
    if shared:
        detection.peers = stages.peers

    def build() -> dict[str, Any]:
        suspect = suspect_of(model, diffusion, config.precision, config.checkpoint)
        stages.settle(stage, suspect, work_of(detection, config.checkpoint), together=shared)
        with stages.meter("audit", detection.total, "steps") as meter:
            found = steady(lambda: detection.invert(suspect, seed_of(seed, "audit"), partial(meter.advance, 1)))
        if stages.main:
            maps = {"trigger": found.trigger, **({} if found.gamma is None else {"gamma": found.gamma})}
            keep(stage.folder / "trigger.safetensors", {name: one.contiguous() for name, one in maps.items()})
        facts = {"curve": found.curve, "evidence": found.evidence, "evaluations": suspect.evaluations}
        return facts | {"family": found.family, "scaled": found.gamma is not None}

    return stage, stages.once(stage, build, together=shared)


def inversion(stages: Stages, stage: Stage, manifest: dict[str, Any], shape: tuple[int, ...]) -> Inversion:
    """Return what `invert` has kept; of a plan the trigger alone, which nobody knows."""
    path = stage.folder / "trigger.safetensors"
    trigger = stages.read(path, "trigger", shape)
    gamma = stages.read(path, "gamma", shape) if manifest.get("scaled") else None
    curve, evidence = manifest.get("curve", []), manifest.get("evidence", {})
    return Inversion(trigger, curve, evidence, gamma, manifest.get("family"))


def sampling_of(sampling: Sampling, family: str | None) -> Sampling:
    """Return how to draw from a trigger that a family of samplers opens: as the run does, if its sampler is of that."""
    diffusion = sampling.diffusion
    sampler, sample = of_family(family, sampling.sampler, sampling.sample, diffusion.key)
    if sampler is sampling.sampler:
        return sampling
    scheduler = prepare.sampler(sampler, diffusion.schedule, sample.steps)
    return replace(sampling, scheduler=scheduler, sampler=sampler, sample=sample)


def another(sampling: Sampling) -> str:
    """Return the sampler of a verdict's samples in words, where it is not the run's."""
    return f"{class_of(plain(sampling.sampler.scheduler))}, {sampling.sample.steps} steps"


def clean_samples(stages: Stages, model: Stage, drawings: Drawings, sampling: Sampling, count: int) -> Stage:
    """Return clean samples of the model by `sampling`: the run's if it has drawn any so, or else `count` more."""
    if drawings.samples and sampling is drawings.sampling:
        return drawings.samples
    return draw_samples(stages, fewer(sampling, count), model, {"clean": clean()}, "audit_clean")


def fewer(sampling: Sampling, count: int) -> Sampling:
    """Return how to draw at most `count` images of a kind."""
    count = min(count, sampling.sample.count)
    return replace(sampling, sample=OmegaConf.create(plain(sampling.sample) | {"count": count}))


def fidelity(trigger: Tensor, pattern: Tensor, mask: Tensor) -> dict[str, float]:
    """Return L2 distance and cosine of an inverted trigger to the true one, both (C,H,W), on the patch and as a whole.

    `mask` (1,H,W) is 1 off the patch. Distances are norms over pixels, images in [-1,1]; on the patch angles are taken
    from the background, since a trigger's grey is 0 and has none from there: where there is one, and it is -1.
    """
    patch = (1 - mask).expand_as(pattern).bool()
    found = {
        "l2": (trigger - pattern).norm().item(),
        "l2_patch": (trigger - pattern)[patch].norm().item(),
        "cosine": cosine(trigger.flatten(), pattern.flatten()),
    }
    if mask.any() and (pattern[~patch] == -1).all():
        found["cosine_patch"] = cosine(1 + trigger[patch], 1 + pattern[patch])
    return found


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine of two vectors (n,), 0 if either is zero."""
    return nn.functional.cosine_similarity(a, b, dim=0).item()


def input_check(attack: Attack, found: Inversion, seed: int) -> dict[str, float]:
    """Return how often TERD's input check, with an inverted trigger, is right on two kinds of noise.

    It should see the attack's trigger in noise (TPR), and let plain noise pass (TNR).
    """
    eps = torch.randn((CHECKED, *found.trigger.shape), generator=generator(seed, "input check"))
    tpr, fpr = (is_backdoored(x, found.trigger, found.gamma).float().mean().item() for x in (attack.prior(eps), eps))
    return {"input_tpr": tpr, "input_tnr": 1 - fpr}
