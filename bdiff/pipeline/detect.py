"""The evaluation of a detection: its verdict, and how near its inverted trigger comes to the true one.

Its stages and metrics are called "audit", as the command is.
"""

import logging
from functools import partial
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from bdiff.attack.base import Attack
from bdiff.common.seeds import generator, seed_of
from bdiff.data.base import to_float
from bdiff.defense.base import Detection, Inversion
from bdiff.defense.detection.terd import is_backdoored
from bdiff.diffusion.engine import steady
from bdiff.pipeline.measure import Measuring, target_hits
from bdiff.pipeline.remove import Found
from bdiff.pipeline.result import StageResult, first_images
from bdiff.pipeline.sample import Sampling, draw_samples, shifted
from bdiff.pipeline.stages import Stages, keep
from bdiff.pipeline.suspect import Diffusion, own, suspect_of
from bdiff.store.artifacts import Stage
from bdiff.trigger.base import Trigger

log = logging.getLogger(__name__)

CHECKED = 1024  # starting noises of either kind that TERD's input check gets


class Truth(NamedTuple):
    """What the measuring side knows of the backdoor, and no detection does."""

    attack: Attack
    trigger: Trigger
    measuring: Measuring


def detected(
    stages: Stages,
    model: Stage,
    detection: Detection,
    config: DictConfig,  # conf/defense
    sampling: Sampling,
    truth: Truth,
    unflagged: str | None = None,  # why the threshold flags no model here
) -> tuple[StageResult, Found]:
    """Invert a trigger, draw samples from it, give the verdict, and compare with the true trigger if there is one.

    Returns the inverted trigger too.
    """
    inverted, manifest = invert(stages, model, detection, config, sampling.diffusion, sampling.seed)
    trigger = stages.read(inverted.folder / "trigger.safetensors", "trigger", sampling.diffusion.shape)
    samples = draw_samples(stages, sampling, model, {"inverted": shifted(trigger)}, "audit_sample")
    if stages.planning:
        return StageResult(), Found(trigger, inverted.key)
    first = first_images(samples, "inverted", detection.reads)
    verdict = detection.verdict(Inversion(trigger, manifest["curve"], manifest["evidence"]), to_float(first))
    metrics = {
        "score": verdict.score,
        **verdict.evidence,
        "seconds": manifest["seconds"],
        "evaluations": manifest["evaluations"],
    }
    if detection.threshold is not None:
        metrics["flagged"] = float(verdict.flagged)
    backdoored = truth.attack.poison_rate > 0
    lacking = None if backdoored and truth.attack.starts_samples else "no true trigger of samples"
    if lacking is None:
        metrics |= input_check(truth.attack, trigger, sampling.seed)
        metrics |= target_hits(samples, "inverted", truth.measuring, stages.device)
        if truth.attack.adds_pattern:
            metrics |= fidelity(trigger, truth.trigger.pattern, truth.trigger.mask)
        else:
            lacking = "the true trigger scales noise, so it is no pattern"
    log.info("audit: score %.4g, %s", verdict.score, unflagged or ("flagged" if verdict.flagged else "not flagged"))
    protocol = {
        "backdoored": backdoored,
        "threshold": detection.threshold,
        **({"not flagged": unflagged} if unflagged else {}),
        "precision": config.precision,
        "marks": truth.measuring.marks,
        **({"absent": f"{lacking} to hold the inverted one against"} if lacking else {}),
    }
    result = StageResult(
        {f"audit/{name}": value for name, value in metrics.items()},
        {"audit": protocol},
        {"inverted trigger": trigger},
        {"inverted": first},
    )
    return result, Found(trigger, inverted.key)


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
    )

    shared = detection.starts > 1
    if shared:
        detection.peers = stages.peers

    def build() -> dict[str, Any]:
        suspect = suspect_of(model, diffusion, config.precision, config.checkpoint)
        stages.settle(stage, suspect, detection.work, together=shared)
        with stages.meter("audit", detection.total, "steps") as meter:
            found = steady(lambda: detection.invert(suspect, seed_of(seed, "audit"), partial(meter.advance, 1)))
        if stages.main:
            keep(stage.folder / "trigger.safetensors", {"trigger": found.trigger.contiguous()})
        return {"curve": found.curve, "evidence": found.evidence, "evaluations": suspect.evaluations}

    return stage, stages.once(stage, build, together=shared)


def fidelity(trigger: Tensor, pattern: Tensor, mask: Tensor) -> dict[str, float]:
    """Return L2 distance and cosine of an inverted trigger to the true one, both (C,H,W), on the patch and as a whole.

    `mask` (1,H,W) is 1 off the patch. Distances are norms over pixels, images in [-1,1]; on the patch angles are taken
    from the background, -1, since a trigger's grey is 0 and has none from there.
    """
    patch = (1 - mask).expand_as(pattern).bool()
    return {
        "l2": (trigger - pattern).norm().item(),
        "l2_patch": (trigger - pattern)[patch].norm().item(),
        "cosine": cosine(trigger.flatten(), pattern.flatten()),
        "cosine_patch": cosine(1 + trigger[patch], 1 + pattern[patch]),
    }


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine of two vectors (n,), 0 if either is zero."""
    return nn.functional.cosine_similarity(a, b, dim=0).item()


def input_check(attack: Attack, trigger: Tensor, seed: int) -> dict[str, float]:
    """Return how often TERD's input check, with an inverted trigger (C,H,W), is right on two kinds of noise.

    It should see the attack's trigger in noise (TPR), and let plain noise pass (TNR).
    """
    eps = torch.randn((CHECKED, *trigger.shape), generator=generator(seed, "input check"))
    tpr = is_backdoored(attack.prior(eps), trigger).float().mean().item()
    return {"input_tpr": tpr, "input_tnr": 1 - is_backdoored(eps, trigger).float().mean().item()}
